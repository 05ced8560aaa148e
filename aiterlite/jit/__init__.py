"""From a description of a unit to its loaded code.

Modules, in reading order; each uses only those above it:

    spec        what a unit is, and the build text it stands for (pure)
    sources     the source tree: digests, rules that keep keys honest
    arguments   argument structs of kernels, declared by their headers
    key         spec and digests -> lookup key (pure)
    depfile     what a compiler says it read (pure)
    text        control characters spelled out, for terminals (pure)
    leaf        what an artifact's metadata may say (pure)
    watch       what ends a compiler whose parent is gone
    process     clean environments; starting and killing compilers
    rocm        where the AMDGPU clangs of a machine are
    toolchain   finding compilers, fingerprints without starting them twice
    ptxas       what `ptxas -v` prints (pure)
    diagnose    compiler output -> first real error and a hint (pure)
    progress    what a person sees of a cold path
    locks       one builder at a time, where the file system allows it
    store       layers, leaves, publishing, verifying
    failures    the last failed build of each unit
    jobs        how many compilers may run at once
    compiler    one unit, one staging directory, one artifact
    engine      obtain(unit): lookup, modes, lock, build, publish
    record      the manifest of what a run used
    loader      verified artifact -> ctypes library or bytes
    bundle      export and import of a cache
"""
