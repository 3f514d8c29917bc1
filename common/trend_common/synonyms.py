"""Words of one meaning on a price tag, for views of a description that say the same in other words.

A small public list, written for this project; nothing in it was learned from anybody's catalogue. Synonyms cross
languages, since a retailer's descriptions often do.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np

__all__ = ["GROUPS", "paraphrase"]

GROUPS: Final[tuple[tuple[str, ...], ...]] = tuple(
    tuple(line.split())
    for line in """
        christmas xmas weihnachten navidad natal noel
        easter ostern pascua pascoa paques
        valentine valentines valentinstag
        summer sommer verao verano ete
        winter inverno invierno hiver
        spring fruehling primavera
        autumn fall herbst outono otono
        garden garten jardin jardim
        school schule escola escuela
        small mini little klein petit pequeno pequena
        large big giant gross grand grande
        set pack bundle kit
        box carton case schachtel caixa caja
        bag sack tasche sac bolsa
        cup mug tasse becher taza
        plate dish teller assiette prato plato
        bowl schale schuessel bol tigela
        bottle flasche bouteille garrafa botella
        jar pot
        tin can dose lata
        lamp light leuchte lampe
        candle kerze bougie vela
        clock uhr horloge relogio reloj
        picture frame bilderrahmen
        cushion pillow kissen coussin
        towel handtuch toalha toalla
        blanket throw decke
        curtain vorhang cortina
        basket korb cesta
        heart herz coeur coracao corazon
        flower blume fleur flor
        star stern etoile estrela estrella
        bird vogel oiseau passaro
        rabbit bunny hase
        cat katze gato
        dog hund cachorro perro
        red rot rouge vermelho rojo
        blue blau bleu azul
        green gruen vert verde
        white weiss blanc branco blanco
        black schwarz noir preto negro
        pink rosa rose
        yellow gelb jaune amarelo amarillo
        wood wooden holz bois madeira madera
        metal metall
        glass glas verre vidro
        paper papier papel
        cotton baumwolle coton algodao
        vintage retro antique
        assorted mixed sortiert
        milk milch lait leite leche
        bread brot pain pao pan
        butter beurre manteiga
        cheese kaese fromage queijo queso
        egg eggs ei eier
        coffee kaffee cafe
        tea tee cha
        juice saft jus suco zumo
        water wasser eau agua
        beer bier biere cerveja cerveza
        wine wein vin vinho vino
        chocolate schokolade chocolat
        cake kuchen gateau bolo
        cookie biscuit keks
        sugar zucker sucre acucar azucar
        salt salz sel sal
        oil oel huile oleo aceite
        rice reis riz arroz
        pasta noodles nudeln
        chicken huhn poulet frango pollo
        fish fisch poisson peixe pescado
        ham schinken jambon presunto
        soap seife savon sabao
        toy spielzeug jouet brinquedo
        doll puppe poupee boneca
        card karte carte cartao
        birthday geburtstag anniversaire
        gift present geschenk cadeau presente
        baby infant
        kids children kinder enfants
        women ladies damen
        men gents herren
        shirt hemd chemise camisa
        sock socks socken
        shoe shoes schuhe
        organic bio
        fresh frisch frais fresco
    """.strip().splitlines()
)

_GROUP: Final = {word: group for group in GROUPS for word in group}
_WORD: Final = re.compile(r"\w+")


def paraphrase(text: str, share: float, rng: np.random.Generator) -> str:
    """``text`` with a part of its words replaced by others of the same meaning.

    Args:
        text: A description.
        share: Probability with which a word that has synonyms is replaced.
        rng: Of the draws.

    Returns:
        The same words in the same order and case, but for those replaced.
    """

    def other(match: re.Match[str]) -> str:
        word = match.group()
        group = _GROUP.get(word.lower())
        if group is None or rng.random() >= share:
            return word
        found = str(rng.choice([one for one in group if one != word.lower()]))
        return found.upper() if word.isupper() else found.capitalize() if word.istitle() else found

    return _WORD.sub(other, text)
