"""Programs that the guest's own Python runs: its init, and two steps of the image's build.

They import the standard library alone, because the tree that runs them holds nothing else. The
host reads them as files and never imports them.
"""
