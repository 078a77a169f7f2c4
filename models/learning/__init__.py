"""From a table to a bundle: splits, network blocks, training, evaluation, ONNX export. The only room with torch."""
