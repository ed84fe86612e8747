"""The machine: its cores and memory, and its CUDA devices.

Modules:

- `machine`: the cores and the memory that this process may use.
- `cuda`: the CUDA devices, or the reason why there is none.
- `kernel_cache`: the folder in which CuPy saves compiled kernels.
- `doctor`: describes the machine, the libraries and the devices to a user.

Nothing here depends on vectors. CuPy is imported only when a device is used.

Terms: a device is *visible* if CUDA shows it to this process. CUDA is *disabled* if the user chose
`--devices none`.
"""
