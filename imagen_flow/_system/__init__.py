"""Services of this machine: regular files, processes, user folders, seals."""
