"""Names and argument orders of other packages, for processes that call this one in their place.

vllm_ops    operators of vLLM's `_custom_ops`
engines     plug-ins of vLLM and SGLang, which put these two there
aiter       answers to the name `aiter`; aiter_names has what is offered, aiter_values what is no operator
"""
