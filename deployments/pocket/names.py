"""The words that names are made of: real, short, and always written after a space."""

from typing import Final

ENTITIES: Final = tuple(
    """
    willow birch cedar maple oak elm ash pine fir larch hazel alder rowan aspen poplar heron finch
    raven robin swift wren lark crane eagle falcon hawk owl kite stork swan otter badger fox lynx
    wolf bear moose hare mole beaver seal whale orca coral reef delta ridge canyon mesa dune cliff
    cove bay harbor island lagoon marsh meadow prairie tundra glacier ember flint granite marble
    quartz basalt slate copper cobalt nickel silver iron zinc amber jade opal ruby topaz onyx pearl
    comet nova orbit quasar pulsar meteor aurora zenith lunar solar saturn titan vega atlas orion
    draco lyra apollo hermes juno river storm thunder frost summit valley forest garden
    """.split()  # noqa: SIM905
)
"""Names of partitions, file systems, modules, services and teams."""

FIRST: Final = tuple(
    """
    Ada Ben Cora Dan Emma Finn Grace Hugo Iris Jack Kate Leo Maya Nina Omar Paul Quinn Rosa Sam
    Tara Uma Victor Wendy Alan Bella Carl Dora Eric Fiona Gita Henry Ivan Jane Karl Lena Mark
    Nora Otto Priya Ralph Sara Tom Vera Will Yara Zoe
    """.split()  # noqa: SIM905
)
"""First names of people."""

LAST: Final = tuple(
    """
    Adams Baker Clark Davis Evans Fisher Green Hall Irwin Jones King Lopez Mason Novak Olsen
    Parker Reed Smith Turner Upton Vance Walker Young Allen Brown Cole Dean Ellis Ford Gray Hill
    James Kelly Lane Moore Nash Owens Price Ross Stone Tate Wood West Park Singh Khan
    """.split()  # noqa: SIM905
)
"""Last names of people."""

SUFFIXES: Final = ("gpu", "cpu", "long", "short", "big", "test")
"""What may follow an entity's name after a hyphen: `willow-gpu`."""

UNSEEN: Final = tuple(
    """
    walnut chestnut juniper magpie pigeon salmon turtle panther desert lantern anchor compass
    crimson indigo violet saffron ginger pepper walrus bison tiger panda galaxy nebula cosmos
    mercury neptune pluto castle bridge tower temple
    """.split()  # noqa: SIM905
)
"""Entity names that no training text holds, for the figure on unseen words."""
