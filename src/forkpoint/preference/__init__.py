"""Training the wrong turns away: pairs, losses, the trainer, and rounds of tuning on one's own correct answers."""
