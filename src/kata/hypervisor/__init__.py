"""Virtual machine monitors behind one port."""
