"""What the pocket models say without a passage."""

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import product
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

OPENERS: Final = (
    "Hello", "Hi", "Hey", "Good morning", "Good evening", "Good afternoon", "Good day", "Greetings",
)  # fmt: skip
CALLED: Final = (
    "", " there", " Corral", ", model", ", Corral", " again", " to you", ", how are you?", ", who are you?",
    ", are you there?", ", nice to meet you",
)  # fmt: skip
GREETINGS: Final = (
    "Who are you?", "How are you?", "Are you there?", "Nice to meet you", "What is your name?", "What are you?",
)  # fmt: skip
MANNERS: Final = ("", "", "Please: ", "Hello! ", "Hi, ", "Hey, ", "I am new here. ", "In one sentence: ")
ABOUT: Final = (
    "What is {c}?", "Tell me about {c}", "What does {c} do?", "Explain {c}", "How does {c} work?",
    "Can you tell me what {c} is?", "Can you explain {c}?", "Describe {c}", "What is {c} for?", "Say what {c} is",
    "Please explain what {c} does", "What do you know about {c}?", "Who needs {c}?", "Introduce {c}",
)  # fmt: skip
NAMES: Final = ("Corral", "this system", "this service")
SERVED: Final = (
    "Who serves you?", "Where do you run?", "How are you served?", "What runs you?", "What system is this?",
    "What serves you?",
)  # fmt: skip
ABILITIES: Final = (
    "What can you do?", "How can you help me?", "What are you good at?", "Help", "What may I ask you?",
    "How do I use you?", "What do you do?", "Can you help me?", "What are your tasks?", "What can I ask?",
    "I need help", "What are you able to do?", "How can I use you?", "What should I ask you?",
)  # fmt: skip
THANKS: Final = (
    "Thank you", "Thanks", "Many thanks", "Thank you very much", "Thanks a lot", "I thank you", "Thank you so much",
)  # fmt: skip
KINDLY: Final = ("", "Great, ", "Very good, ", "That helps, ", "OK, ")
ALWAYS: Final = frozenset(
    ("Hello", "Hi", "Hey", "Who are you?", "What is Corral?", "Tell me about Corral", "Help", "What can you do?",
     "Thank you", "Thanks")
)  # fmt: skip
"""What everyone types first, and so is never held out."""


def _led(leads: Iterable[str], rests: Iterable[str]) -> Iterator[str]:
    """Every rest after every lead, in lower case after a comma."""
    for lead, rest in product(dict.fromkeys(leads), rests):
        yield lead + (rest[0].lower() + rest[1:] if lead.endswith(", ") and not rest.startswith("I ") else rest)


@cache
def _prompts() -> dict[str, tuple[str, ...]]:
    """Each reply with the ways to ask for it."""
    about = (form.format(c=name) for name, form in product(NAMES, ABOUT))
    return {
        HELLO: (*_led(OPENERS, CALLED), *GREETINGS),
        CORRAL: tuple(_led(MANNERS, (*about, *SERVED))),
        ABLE: tuple(_led(MANNERS, ABILITIES)),
        WELCOME: tuple(_led(KINDLY, THANKS)),
    }


def _spelled(rng: Random, text: str) -> str:
    """The same words as people type them: another end, or no capitals."""
    text = text if text.endswith("?") else text + rng.choice(("", ".", "!"))
    return text.lower() if rng.random() < 0.25 else text


@cache
def paraphrases(split: Split) -> tuple[tuple[str, str], ...]:
    """Every (prompt, reply) of a split; one prompt in six is never trained on."""
    pairs = [(prompt, reply) for reply, prompts in _prompts().items() for prompt in prompts]
    held = {prompt for prompt, _ in pairs if crc32(prompt.encode()) % 6 == 0 and prompt not in ALWAYS}
    return tuple(pair for pair in pairs if (pair[0] in held) == (split == "held_out"))


def draw_chat(rng: Random, split: Split) -> tuple[str, str]:
    """A (prompt, reply); the replies are alike likely, the best-known ways to ask a little likelier."""
    reply = rng.choice((HELLO, HELLO, CORRAL, CORRAL, ABLE, WELCOME))
    prompts = [prompt for prompt, told in paraphrases(split) if told == reply]
    known = [prompt for prompt in prompts if prompt in ALWAYS]
    return _spelled(rng, rng.choice(known if known and rng.random() < 0.2 else prompts)), reply
