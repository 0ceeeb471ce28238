"""Which tokens to pretrain on: reference scores, selection rules, trainer, token dynamics."""
