"""Files written by ``torch.save``, read and written without torch."""
