"""Pure PyTorch twins of the ops: same names and signatures, to be read beside the papers."""
