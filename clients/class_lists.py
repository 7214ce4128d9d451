"""Lists of class names that come with the programs: small ones, of sets that are public.

Beside clients/zero_shot.py at the end of the walk. A class is named as people write it, and not as the set's files do;
the order is the set's own, so that a class's place is its number there.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType


@dataclasses.dataclass(frozen=True)
class ClassList:
    """Classes, and what is asked of an image about them.

    Attributes:
        names: of the classes.
        templates: as vit22b.prompts.find_templates takes them.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...] = ("general",)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


_CIFAR100 = """
apple, aquarium fish, baby, bear, beaver, bed, bee, beetle, bicycle, bottle, bowl, boy, bridge, bus, butterfly, camel,
can, castle, caterpillar, cattle, chair, chimpanzee, clock, cloud, cockroach, couch, crab, crocodile, cup, dinosaur,
dolphin, elephant, flatfish, forest, fox, girl, hamster, house, kangaroo, keyboard, lamp, lawn mower, leopard, lion,
lizard, lobster, man, maple tree, motorcycle, mountain, mouse, mushroom, oak tree, orange, orchid, otter, palm tree,
pear, pickup truck, pine tree, plain, plate, poppy, porcupine, possum, rabbit, raccoon, ray, road, rocket, rose, sea,
seal, shark, shrew, skunk, skyscraper, snail, snake, spider, squirrel, streetcar, sunflower, sweet pepper, table, tank,
telephone, television, tiger, tractor, train, trout, tulip, turtle, wardrobe, whale, willow tree, wolf, woman, worm
"""

CLASS_LISTS: Mapping[str, ClassList] = MappingProxyType(
    {
        "digits": ClassList(_names("zero, one, two, three, four, five, six, seven, eight, nine"), ("digits",)),
        "cifar10": ClassList(_names("airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck")),
        "cifar100": ClassList(_names(_CIFAR100)),
        "stl10": ClassList(_names("airplane, bird, car, cat, deer, dog, horse, monkey, ship, truck")),
        "fashion_mnist": ClassList(
            _names("t-shirt, trousers, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot")
        ),
        "eurosat": ClassList(
            _names(
                "annual crop land, forest, herbaceous vegetation land, highway or road, industrial buildings, "
                "pasture land, permanent crop land, residential buildings, river, sea or lake"
            ),
            ("a satellite photo of {}.", "an aerial view of {}."),
        ),
        "colours": ClassList(_names("black, white, grey, red, orange, yellow, green, blue, purple, pink, brown")),
    }
)
