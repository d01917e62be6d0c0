"""Networks that others published, written anew in torch: what ours are compared with."""
