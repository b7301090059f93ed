"""The guest image: a kernel and an initramfs made of the distribution's own packages.

`kata.image.build` makes them, `kata.image.manifest` describes and verifies them. Nothing here
runs when a container starts.
"""
