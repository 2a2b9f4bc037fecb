"""What this machine offers: regular files, processes, the user's folders, seals."""
