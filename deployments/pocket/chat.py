"""What the pocket models say without a passage."""

from random import Random
from typing import Final
from zlib import crc32

from deployments.pocket.handbook import Split

HELLO: Final = "Hello! I am a pocket model served by Corral. Give me a passage and ask me about it."
CORRAL: Final = (
    "Corral serves large language models inside SLURM allocations: a job starts a Ray cluster, "
    "and Ray Serve hosts each Llama size on vLLM."
)
ABLE: Final = (
    "I answer questions from a passage that you give me, and I judge whether a draft is supported by its passage."
)
WELCOME: Final = "You are welcome."

REPLIES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    (
        HELLO,
        (
            "Hello", "Hi", "Hey", "Hi there", "Hello there", "Good morning", "Good evening",
            "Good day", "Hello, how are you?", "Hi, who are you?", "Greetings", "Hey there",
            "Good afternoon", "Hello Corral", "Hi Corral", "Who are you?", "Hello, model",
            "Are you there?", "Nice to meet you", "Hello again",
        ),
    ),
    (
        CORRAL,
        (
            "What is Corral?", "Tell me about Corral", "What does Corral do?", "Explain Corral",
            "How does Corral work?", "Can you tell me what Corral is?", "What is this system?",
            "Describe Corral", "What is Corral for?", "Who serves you?", "Where do you run?",
            "How are you served?", "Please explain what Corral does", "Say what Corral is",
            "I am new here. What is Corral?", "Hello! What is Corral?", "What runs you?",
            "In one sentence, what is Corral?", "Hi, what is Corral?", "What system is this?",
        ),
    ),
    (
        ABLE,
        (
            "What can you do?", "How can you help me?", "What are you good at?", "Help",
            "What may I ask you?", "How do I use you?", "What do you do?", "Can you help me?",
            "What are your tasks?", "What can I ask?",
        ),
    ),
    (
        WELCOME,
        ("Thank you", "Thanks", "Thanks a lot", "Many thanks", "Thank you very much", "Great, thanks"),
    ),
)  # fmt: skip
"""Each reply with the ways to ask for it."""


def _spelled(rng: Random, text: str) -> str:
    """The same words as people type them: another end, or no capitals."""
    text = text if text.endswith("?") else text + rng.choice(("", ".", "!"))
    return text.lower() if rng.random() < 0.25 else text


def paraphrases(split: Split) -> list[tuple[str, str]]:
    """Every (prompt, reply) of a split; one prompt in six is never trained on."""
    pairs = [(prompt, reply) for reply, prompts in REPLIES for prompt in prompts]
    return [p for p in pairs if (crc32(p[0].encode()) % 6 == 0) == (split == "held_out")]


def draw_chat(rng: Random, split: Split) -> tuple[str, str]:
    """A (prompt, reply) in which each kind of reply is as likely as it has paraphrases."""
    prompt, reply = rng.choice(paraphrases(split))
    return _spelled(rng, prompt), reply
