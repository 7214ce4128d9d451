"""Which drawings the sets are made of: things of sixteen categories, and people at work.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. A thing is one code point
that every style of renderings.py draws; its name is the short one that a person would say.
"""

from collections.abc import Mapping
from types import MappingProxyType

CATEGORIES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "bird": {"chicken": "🐔", "duck": "🦆", "eagle": "🦅", "owl": "🦉", "penguin": "🐧"},
        "mammal": {"cow": "🐄", "elephant": "🐘", "horse": "🐎", "rabbit": "🐇", "sheep": "🐑"},
        "sea animal": {"blowfish": "🐡", "octopus": "🐙", "shark": "🦈", "shrimp": "🦐", "whale": "🐋"},
        "insect": {"ant": "🐜", "bee": "🐝", "butterfly": "🦋", "caterpillar": "🐛", "ladybird": "🐞"},
        "reptile": {"crocodile": "🐊", "dragon": "🐉", "lizard": "🦎", "snake": "🐍", "turtle": "🐢"},
        "fruit": {"banana": "🍌", "cherries": "🍒", "grapes": "🍇", "pineapple": "🍍", "strawberry": "🍓"},
        "vegetable": {"aubergine": "🍆", "carrot": "🥕", "cucumber": "🥒", "maize": "🌽", "mushroom": "🍄"},
        "dish": {"chips": "🍟", "hamburger": "🍔", "hot dog": "🌭", "pizza": "🍕", "taco": "🌮"},
        "drink": {"beer": "🍺", "cocktail": "🍸", "coffee": "☕", "milk": "🥛", "wine": "🍷"},
        "land vehicle": {"bicycle": "🚲", "bus": "🚌", "car": "🚗", "locomotive": "🚂", "tractor": "🚜"},
        "craft": {"canoe": "🛶", "helicopter": "🚁", "rocket": "🚀", "sailing boat": "⛵", "ship": "🚢"},
        "plant": {"cactus": "🌵", "palm tree": "🌴", "spruce": "🌲", "sunflower": "🌻", "tulip": "🌷"},
        "weather": {"cloud": "☁", "lightning": "⚡", "rainbow": "🌈", "snowman": "⛄", "sun": "☀"},
        "garment": {"dress": "👗", "hat": "👒", "high heel": "👠", "jeans": "👖", "shirt": "👕"},
        "instrument": {"drum": "🥁", "guitar": "🎸", "piano keys": "🎹", "trumpet": "🎺", "violin": "🎻"},
        "ball": {"baseball": "⚾", "basketball": "🏀", "football": "⚽", "rugby ball": "🏉", "tennis ball": "🎾"},
    }
)
THINGS: Mapping[str, str] = MappingProxyType(
    {name: text for things in CATEGORIES.values() for name, text in things.items()}
)
CATEGORY_OF: Mapping[str, str] = MappingProxyType(
    {name: category for category, things in CATEGORIES.items() for name in things}
)

# What is joined to a person to give them a profession (Unicode Technical Standard 51, section 2.3.3).
PROFESSIONS: Mapping[str, str] = MappingProxyType(
    {
        "artist": "🎨",
        "astronaut": "🚀",
        "cook": "🍳",
        "factory worker": "🏭",
        "farmer": "🌾",
        "firefighter": "🚒",
        "health worker": "⚕",
        "judge": "⚖",
        "mechanic": "🔧",
        "scientist": "🔬",
        "singer": "🎤",
        "teacher": "🏫",
    }
)
PERSONS: Mapping[str, str] = MappingProxyType({"man": "👨", "person": "🧑", "woman": "👩"})
SKIN_TONES: Mapping[str, str] = MappingProxyType(
    {
        "light": "\N{EMOJI MODIFIER FITZPATRICK TYPE-1-2}",
        "medium light": "\N{EMOJI MODIFIER FITZPATRICK TYPE-3}",
        "medium": "\N{EMOJI MODIFIER FITZPATRICK TYPE-4}",
        "medium dark": "\N{EMOJI MODIFIER FITZPATRICK TYPE-5}",
        "dark": "\N{EMOJI MODIFIER FITZPATRICK TYPE-6}",
    }
)
JOINER = "\N{ZERO WIDTH JOINER}"


def at_work(person: str, skin_tone: str, profession: str) -> str:
    """The sequence of code points that draws a person with a skin tone and a profession, by their names here."""
    return PERSONS[person] + SKIN_TONES[skin_tone] + JOINER + PROFESSIONS[profession]
