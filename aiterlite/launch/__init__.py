"""From a decision to its launches: the only place that knows a CPU kernel from a GPU's and from an emulated one.

Modules, in reading order; each uses only those above it:

    hints       what a driver's status code does not say (pure)
    record      the last launches, in a file that outlives the process
    drivers     one path to HIP, CUDA and the emulator: entry points, modules, errors
    streams     devices made ready, graphs under capture
    functions   kernels loaded on a device
    workspace   memory that launches share, one after the other
    reserve     reserve(op, problems): the workspaces of calls to come
    program     kernels -> what the launch unit reads, and how Python packs their arguments (pure)
    calls       prepare(decision, ...): a callable that takes tensors
    bare        a launch with nothing around it, to measure calls against
"""
