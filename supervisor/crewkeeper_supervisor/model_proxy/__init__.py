"""The model proxy: where agents send what they want of models, so that nothing is spent without a grant of the gate."""
