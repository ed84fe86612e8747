"""Which library holds a matrix, and where its rows go.

In flow rows, batch by batch (`destinations`, `device`), or a whole matrix; out flows the same matrix,
worked on in place and in whichever memory it lies. NumPy holds arrays in host memory, CuPy on a CUDA
device; code above asks `namespace` and never names one of the two.

`namespace` tells the libraries apart, `rows` goes through a matrix in chunks, `destinations` takes rows
into host memory or into a file that is mapped into it (`mapped`), `device` into the memory of a CUDA device.

Words: *host* is the machine's own memory, *device* a graphics card's; a *chunk* is a slice of rows that is
worked on at once; a *lane* is a page-locked buffer on the way to the device.
"""
