"""What all trainers share: adapters, TrainingArguments, and the output matrix in blocks."""
