"""containerd's requests, translated to the domain and back."""
