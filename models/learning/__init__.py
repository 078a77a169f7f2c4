"""From a table to a bundle: splits, network blocks, the training loop, evaluation, ONNX export. The only room with torch."""
