"""Write a tiny llama with random weights: `python llama_model.py FILE.gguf`.

Runs in the llama venv. The model is real in form (architecture, SentencePiece tokenizer, chat
template) and says words at random; a given client input always has the same token count.
"""

from __future__ import annotations

import string
import sys
from pathlib import Path

import gguf
import numpy as np

WIDTH, LAYERS, HEADS, FEED_FORWARD, CONTEXT = 64, 2, 4, 128, 8192
BOS, EOS, UNKNOWN = 1, 2, 0
SPACE = "\u2581"

LETTERS = string.ascii_letters + string.digits + string.punctuation + "\n"
WORDS = (
    "the of and to in that is was it for on with as be at by this have from or one had not but "
    "what all were when we there can an your which their said if do will each about how up out "
    "them then she many some so these would other into has more her two like him see time could "
    "no make than first been its who now people my made over did down only way find use may "
    "water long little very after words called just where most know get through back much go "
    "good new write our me man too any day same right look think also around another came come "
    "work three word must because does part even place well such here take why help put "
    "different away again off went old number great"
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] + ': ' + message['content'] + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


def vocabulary() -> list[tuple[str, float, gguf.TokenType]]:
    """Tokens with scores and types: three special ones, the 256 bytes, letters, words.

    A word needs its own beginnings as tokens: SentencePiece joins two neighbours at a time.
    """
    special = [
        ("<unk>", 0.0, gguf.TokenType.UNKNOWN),
        ("<s>", 0.0, gguf.TokenType.CONTROL),
        ("</s>", 0.0, gguf.TokenType.CONTROL),
    ]
    raw = [(f"<0x{byte:02X}>", 0.0, gguf.TokenType.BYTE) for byte in range(256)]
    begun = [SPACE + word[:end] for word in WORDS.split() for end in range(1, len(word) + 1)]
    letters = [(each, -10.0) for each in SPACE + LETTERS]
    joined = [(each, float(len(each))) for each in dict.fromkeys(begun)]
    plain = [(text, score, gguf.TokenType.NORMAL) for text, score in letters + joined]
    return special + raw + plain


def write(path: Path) -> None:
    tokens = vocabulary()
    random = np.random.default_rng(7)

    def weights(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (random.standard_normal(shape) * scale).astype(np.float32)

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny-llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([text.encode() for text, _, _ in tokens])
    writer.add_token_scores([score for _, score, _ in tokens])
    writer.add_token_types([kind for _, _, kind in tokens])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_unk_token_id(UNKNOWN)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)
    writer.add_chat_template(CHAT_TEMPLATE)

    output = weights(len(tokens), WIDTH)
    # Special tokens and bytes never win: an answer is valid UTF-8 and as long as it may be.
    output[: 3 + 256] = 0
    writer.add_tensor("token_embd.weight", weights(len(tokens), WIDTH))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    writer.add_tensor("output.weight", output)
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(WIDTH, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            square = weights(WIDTH, WIDTH, scale=WIDTH**-0.5)
            writer.add_tensor(f"blk.{layer}.{name}.weight", square)
        for name in ("ffn_gate", "ffn_up"):
            wide = weights(FEED_FORWARD, WIDTH, scale=WIDTH**-0.5)
            writer.add_tensor(f"blk.{layer}.{name}.weight", wide)
        narrow = weights(WIDTH, FEED_FORWARD, scale=FEED_FORWARD**-0.5)
        writer.add_tensor(f"blk.{layer}.ffn_down.weight", narrow)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    target = Path(sys.argv[1])
    unfinished = target.with_suffix(".part")
    write(unfinished)
    unfinished.rename(target)
