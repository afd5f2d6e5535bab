"""A byte-level BPE of 1,152 tokens with Llama 3's special tokens and chat template."""

from pathlib import Path
from random import Random
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from deployments.pocket.chat import paraphrases
from deployments.pocket.tasks import Mix, draw_bundle

SPECIALS: Final = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    *(f"<|reserved_special_token_{i}|>" for i in range(8)),
)
"""Llama 3's special tokens; they take the first ids, in this order."""

NAMED: Final = {
    "bos_token": "<|begin_of_text|>",
    "eos_token": "<|eot_id|>",
    "pad_token": "<|finetune_right_pad_id|>",
}
VOCABULARY: Final = 1152
TEMPLATE: Final = Path(__file__).parent / "chat_template.jinja"
WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+| ?\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Llama 3's pre-tokenizer, but digits one by one, each with the space before it."""


def _corpus(seed: int, bundles: int) -> list[str]:
    """Training text: what users and the assistant say."""
    rng = Random(f"tokenizer-{seed}")
    texts = [text for pair in paraphrases("train") for text in pair]
    for _ in range(bundles):
        bundle = draw_bundle(rng, Mix(), "train")
        texts.append(bundle.system)
        texts.append(bundle.head)
        texts += [t for branch in bundle.branches for turn in branch for t in (turn.prompt, turn.reference)]
    return texts


def train_tokenizer(seed: int = 0, bundles: int = 12_000) -> PreTrainedTokenizerFast:
    """The tokenizer that fits the training text; the same seed gives the same one."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(_corpus(seed, bundles), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        **NAMED,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
        model_input_names=["input_ids", "attention_mask"],
        chat_template=TEMPLATE.read_text(),
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a checkpoint folder."""
    loaded = PreTrainedTokenizerFast.from_pretrained(folder)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    return loaded
