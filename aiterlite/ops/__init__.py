"""The public operators, a file a family. Importing a file registers its operators with torch.library."""
