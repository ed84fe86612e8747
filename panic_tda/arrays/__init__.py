"""Matrices in host memory, in memory-mapped files or on a CUDA device, and operations on their rows.

NumPy holds arrays in host memory, CuPy those on a CUDA device. Other packages call `namespace` to get the
library of an array, and do not import CuPy themselves.

Modules:

- `namespace`: the library of an array, and its transfer to host memory.
- `rows`: operations on all rows of a matrix, chunk by chunk and in place.
- `matrices`: converts the vectors of a caller into a matrix.
- `destinations`: collects rows in host memory or in a memory-mapped file (`mapped`).
- `device`: collects rows in the memory of a CUDA device.

Terms: *host* memory is the machine's main memory, *device* memory that of a graphics card. A *chunk* is a
slice of rows that is processed at once. A *lane* is a page-locked buffer for copies to the device.
"""
