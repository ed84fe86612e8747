"""The machine: its cores and memory, its CUDA devices, and processes that own one device each.

`machine` counts cores and bytes, `cuda` says which devices there are or why there is none, `pool` shares
tasks out among them, each to a process that `worker` describes, `doctor` examines all of it for a person.
Nothing here knows of vectors. CuPy is imported only where somebody asks for a device.

Words: a device is *visible* when CUDA shows it to this process; it is *ruled out* where the user asked to
do without.
"""
