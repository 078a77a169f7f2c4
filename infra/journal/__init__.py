"""The durable record of answered predictions and of labels that came later."""
