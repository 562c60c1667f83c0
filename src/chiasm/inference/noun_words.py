"""Word lists of the rule-based noun phrases: English, lower case, closed classes and the common."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


DETERMINERS = _words(
    """a an the this that these those some any each every another other several many few both all
    no one two three four five six seven eight nine ten eleven twelve dozen my your his her its our
    their whose various multiple numerous different more most half"""
)
"""Open a phrase; alone they name nothing."""

PRONOUNS = _words(
    """i you he she it we they me him us them mine yours hers ours theirs myself yourself himself
    herself itself ourselves themselves who whom which what something anything nothing everything
    someone anyone everyone nobody somebody everybody one ones other others there here where when
    why how none"""
)

ADJECTIVES = _words(
    """red green blue yellow orange purple pink brown black white grey gray golden silver beige
    cyan magenta violet turquoise teal dark light bright pale colorful colourful big small large
    little tiny huge giant tall short long wide narrow thick thin deep high low old young new
    round square rectangular triangular circular oval flat curved straight striped checkered dotted
    plain solid empty full open closed wooden metal metallic plastic stone shiny dirty clean wet dry
    hot cold warm cool soft hard heavy calm busy quiet sunny cloudy clear snowy rainy green leafy
    lush beautiful pretty nice good bad left right upper lower near far close single whole main
    partly visible hidden blurry out-of-focus same similar first second third last next"""
)
"""Stand before a noun; a phrase of these alone names nothing ("it is red")."""

PICTURE_WORDS = _words(
    """image images picture pictures photo photos photograph photographs scene view shot frame
    background foreground middle center centre top bottom left right side sides front back corner
    edge distance direction way part end time day moment kind type sort color colour colors colours
    shape size position setting atmosphere feeling example fact answer question lot bit thing things
    object objects item items"""
)
"""Speak of the picture, of places in it, or of nothing that has pixels of its own."""

QUANTITIES = _words(
    """group groups couple pair pairs number set row rows stack pile bunch bunches slice slices
    piece pieces glass glasses cup cups bowl bowls plate plates bottle bottles pot pots bag bags box
    boxes basket baskets flock herd crowd team line series
    collection variety field patch body cluster"""
)
"""Go on over "of": a group of people is one phrase."""

STOPS = _words(
    """and or but nor so yet if because while although though as than then also too very quite
    really just only even still not never always often of in on at by for with without from to into
    onto over under above below behind beside besides between among around across along through
    near inside outside against toward towards up down off out about within beneath underneath past
    during before after is are was were be been being am do does did done has have had having can
    could will would shall should may might must seems seem appears appear looks look like yes no
    please perhaps maybe possibly likely probably together apart away ahead nearby i'm it's that's
    there's they're he's she's isn't aren't wasn't weren't don't doesn't didn't well such s t
    exactly about almost nearly directly slightly"""
)
"""End a phrase: conjunctions, prepositions, auxiliaries, adverbs."""

VERBS = _words(
    """sit sits sat stand stands stood lie lies lay lays run runs ran walk walks walked ride rides
    rode hold holds held wear wears wore eat eats ate drink drinks drank play plays played fly flies
    flew swim swims swam jump jumps jumped hang hangs hung lean leans leaned rest rests rested cover
    covers covered fill fills filled surround surrounds surrounded carry carries carried pull pulls
    pulled push pushes pushed throw throws threw catch catches caught hit hits kick kicks kicked
    watch watches watched see sees saw seen show shows showed shown depict depicts depicted feature
    features featured contain contains contained include includes included make makes made take
    takes took taken give gives gave given get gets got go goes went gone come comes came use uses
    used put puts place places placed park parks parked grow grows grew cross crosses crossed face
    faces faced point points pointed cast casts display displays displayed located positioned
    attached connected seated mounted parked visible overlaps overlap touches touch touched suggest
    suggests suggested indicate indicates add adds create creates created reach reaches reached
    chase chases chased smile smiles smiled talk talks talked enjoy enjoys enjoyed wait waits waited
    travel travels find finds found hides hide occludes occlude partially known called named consist
    consists"""
)
"""End a phrase: the verbs of captions. A noun of the same spelling is lost where it is bare."""

ING_NOUNS = _words(
    """building buildings painting paintings ceiling ceilings clothing railing railings awning
    awnings wing wings ring rings king string strings spring thing things morning evening wedding
    pudding frosting icing topping toppings dressing dumpling lighting crossing parking landing
    opening swing sling earring earrings housing siding fencing bedding flooring
    stuffing seasoning shilling sibling siblings duckling darling herring being"""
)
"""End in -ing and are nouns."""
