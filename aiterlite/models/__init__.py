"""Models that are written with this package's operators: examples, integration tests and benchmarks in one.

deepseek    DeepSeek-V3 and R1
"""
