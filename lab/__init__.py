"""The development laboratory: everything `make` needs that users never install.

It owns the build folder, the private copies of containerd, the images that tests run, and the
proof that a run left nothing behind. It is not shipped, and nothing in `src/` may import it.
"""
