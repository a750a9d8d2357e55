"""The shapes of the tiny models that scorers, directions and trainings are compared on; see `tiny.py`."""

ARCHITECTURES = {
    "gpt_neox": dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32),
    "gpt2": dict(n_embd=16, n_layer=2, n_head=2, n_positions=64),  # Conv1D layers, tied embeddings
    "llama": dict(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32,
        tie_word_embeddings=True,
    ),  # no biases, grouped queries
    "qwen2": dict(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32
    ),
}  # fmt: skip
