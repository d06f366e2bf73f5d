"""Write and open files so that they survive a crash: atomic writes, folders, locks, manifests."""
