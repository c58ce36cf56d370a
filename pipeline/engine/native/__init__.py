"""C++ sources of the CPU kernels, the library compiled from them, and its loader."""
