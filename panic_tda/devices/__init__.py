"""The machine: its cores and memory, its CUDA devices, and processes that use one device each.

Modules:

- `machine`: the cores and the memory that this process may use.
- `cuda`: the CUDA devices, or the reason why there is none.
- `kernel_cache`: the folder in which CuPy saves compiled kernels.
- `pool`: distributes tasks to the devices; each device has a process of its own, which runs `worker`.
- `doctor`: describes the machine, the libraries and the devices to a user.

Nothing here depends on vectors. CuPy is imported only when a device is used.

Terms: a device is *visible* if CUDA shows it to this process. CUDA is *disabled* if the user chose
`--devices none`.
"""
