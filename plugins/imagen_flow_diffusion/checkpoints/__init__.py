"""What a checkpoint is, as it lies on the disk or in one file, and how a part of it is loaded."""
