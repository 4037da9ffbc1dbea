"""Pure PyTorch twins of the ops: same names and signatures, written to be read beside the papers, not to be fast."""
