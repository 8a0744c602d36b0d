"""Files of ``torch.save``, without torch."""
