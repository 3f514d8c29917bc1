"""The words retailers write above their columns, in English, German, French, Spanish, Portuguese and
Chinese."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

__all__ = ["MAPPABLE", "Match", "OwnKind", "Role", "known_role", "match", "own_kind", "plain"]

Role = Literal[
    "date",
    "units",
    "revenue",
    "store",
    "product",
    "price",
    "promo",
    "category",
    "description",
    "holiday",
    "stock",
    "returns",
    "order",
    "open",
    "closed",
    "unique_id",
    "own",
    "customers",
    "personal",
    "calendar",
    "row_id",
    "total",
    "other",
]

OwnKind = Literal["flyer", "school_holiday", "event", "weather"]
"""What a retailer's own column is about. Weather is known for the past alone, the others are planned or public."""

MAPPABLE: Final = (
    "date",
    "units",
    "store",
    "product",
    "price",
    "promo",
    "category",
    "description",
    "holiday",
    "stock",
    "returns",
    "order",
    "open",
    "own_1",
    "own_2",
    "ahead_1",
    "ahead_2",
)
"""The roles that ``--columns role=name`` may assign.

``own_1`` and ``own_2`` are the two columns of a retailer's own; ``ahead_1`` and ``ahead_2`` are the same two, for a
column that is known before the day and whose name does not say so.
"""

# Role -> tiers of names, best first; names are compared without case, accents, spaces and punctuation. A name marked
# with * also counts as a word inside a longer header ("Umsatz in EUR"); Chinese names always do.
_NAMES: Final[dict[Role, tuple[str, ...]]] = {
    "date": (
        "date* datum* data* dia tag day ds timestamp* datetime* order_date invoice_date sales_date sale_date "
        "bestelldatum* transaction_date purchase_date calendar_date rechnungsdatum* verkaufsdatum* "
        "belegdatum* buchungsdatum* kaufdatum* data_venda data_da_venda data_pedido data_do_pedido "
        "data_emissao date_time zeitstempel tagesdatum 日期 销售日期 订单日期 交易日期 时间 下单时间 "
        "销售时间 date_vente* date_de_vente* date_commande date_facture date_ticket jour* fecha* fecha_venta "
        "fecha_de_venta fecha_pedido fecha_factura",
        "semaine* mois week woche kalenderwoche semana 周 week_ending week_start week_of week_end month monat mes "
        "月份 "
        "period periode periodo year_month jahr_monat ano_mes year_week 年月",
        "delivery_date ship_date lieferdatum versanddatum due_date data_entrega data_envio "
        "date_livraison date_de_livraison fecha_entrega fecha_de_entrega fecha_envio 发货日期 送货日期",
    ),
    "units": (
        "units* quantity* qty* quant menge* absatz* absatzmenge* stück stueck stückzahl* stueckzahl* anzahl "
        "verkaufte_menge verkaufte_stück verkaufte_stueck units_sold unit_sales sales_units sales_quantity "
        "qty_sold quantity_sold sold_quantity items_sold order_quantity demand* nachfrage volume "
        "bestellmenge* verkaufsmenge* quantidade* qtd* qtde* quantidade_vendida qtd_vendida unidades* "
        "unidades_vendidas demanda* y target 销量 数量 销售数量 销售量 件数 需求 需求量 出货量 "
        "quantité* qté* qte* quantité_vendue qté_vendue unités* unités_vendues pièces_vendues nombre_vendu nb_vendus "
        "demande* cantidad* cant cantidad_vendida piezas piezas_vendidas",
        "ventes* vente vendu vendus vendues ventas* venta sales* sale sold verkauf verkäufe* verkaeufe* verkaufte "
        "venda* vendas* vendido vendidos "
        "weekly_sales daily_sales monthly_sales 销售",
    ),
    "revenue": (
        "revenue* turnover* umsatz* umsätze umsaetze erlös* erloes* nettoumsatz* bruttoumsatz* net_sales "
        "gross_sales sales_amount sales_value faturamento* receita* valor_venda valor_vendas 销售额 营业额 "
        "收入 销售金额 gmv sales_eur sales_usd sales_gbp chiffre_d_affaires* chiffre_affaires* ca ca_ht ca_ttc "
        "montant_ventes recette* recettes* ingresos* facturación* importe_ventas ventas_eur",
        "montant* montant_ttc montant_ht total_ttc total_ht importe* importe_total monto* amount* total_amount "
        "line_total total_price betrag* gesamtbetrag valor valor_total 金额 总额 gesamtpreis",
    ),
    "store": (
        "store* store_id store_nbr store_no store_number store_code shop* shop_id filiale* filialnr "
        "filialnummer* filiale_nr filialen_nr filial_id markt marktnummer laden verkaufsstelle* standort* "
        "geschäft geschaeft loja* id_loja cod_loja codigo_loja filial* estabelecimento* 门店 店铺 商店 分店 "
        "门店编号 门店编码 店号 outlet* branch* location site "
        "magasin* code_magasin id_magasin num_magasin boutique* point_de_vente* pdv succursale* établissement* "
        "tienda* id_tienda cod_tienda codigo_tienda sucursal* punto_de_venta*",
        "nom_magasin nom_du_magasin nom_boutique nombre_tienda nombre_de_tienda nombre_de_la_tienda store_name "
        "shop_name filialname marktname nome_loja nome_da_loja 门店名称 店铺名称 店名",
        "country land país 国家 region* região* city stadt ort cidade* 城市 地区 state bundesland* estado "
        "market channel vertriebskanal canal 渠道 pays ville* ciudad*",
    ),
    "product": (
        "sku* sku_id product_id product_code product_no product_nr product_number product_key item_id "
        "item_nbr item_code item_number item_no stock_code artikelnummer* artikelnr* artikel_nr art_nr "
        "artikel_id artikelcode produktnummer* produkt_id produktcode materialnummer material ean* ean_code "
        "gtin* upc* barcode asin plu codigo_produto cod_produto id_produto codigo_do_produto código code "
        "article_id article_number variant_id 商品编码 商品编号 商品代码 商品id 产品编号 产品编码 货号 条码 "
        "sku编码 series_id series code_produit* code_article* num_article id_produit id_article "
        "gencod code_barres* codigo_producto cod_producto id_producto codigo_de_producto codigo_articulo "
        "cod_articulo codigo_de_barras codigo_barras",
        "ref référence* référence_produit referencia*",
        "produit* producto* artículo* product* item* artikel* produkt* produto* article* 商品 产品 货品",
    ),
    "category": (
        "category* kategorie* categoria* product_category item_category category_name categoria_produto 类别 "
        "品类 分类 product_group item_family product_family produktfamilie familie family família store_type "
        "product_line catégorie* famille* gamme",
        "rayon* sous_famille departement* sección* rubro warengruppe* department* dept* abteilung produktgruppe* "
        "artikelgruppe* departamento seção grupo "
        "部门 assortment class",
    ),
    "price": (
        "price* unit_price selling_price sale_price sell_price sales_price price_each preis* einzelpreis* "
        "stückpreis stueckpreis verkaufspreis* vk_preis vk preço* preço_unitario preço_venda preço_de_venda "
        "valor_unitario 价格 单价 售价 销售单价 prix* prix_unitaire prix_de_vente prix_vente prix_ttc "
        "prix_ht pu pv precio* precio_unitario precio_venta precio_de_venta",
        "prix_catalogue prix_public tarif precio_lista precio_de_lista tarifa list_price regular_price "
        "listenpreis base_price uvp preço_de_lista preço_tabela 原价 avg_price "
        "average_price",
    ),
    "promo": (
        "promo* promotion* on_promotion is_promo promo_flag aktion* aktionen in_aktion angebot* werbung "
        "promoção* promoções em_promoção oferta* 促销 促销活动 deal is_promotion en_promotion en_promo offre* "
        "promoción* en_promoción "
        "en_oferta",
        "remise* réduction* rabais* soldes descuento* rebaja* campaña campagne discount* rabatt* desconto* 折扣 "
        "markdown* campaign kampagne 活动 display feature",
    ),
    "description": (
        "description* desc beschreibung* bezeichnung* artikelbezeichnung* artikeltext produktbezeichnung* "
        "descrição* product_description item_description descrição_produto descrição_do_produto 描述 说明 "
        "désignation* libellé* libellé_produit libellé_article "
        "descripción* descripción_producto descripción_del_producto denominación",
        "nom_produit nom_du_produit nom_article intitulé nombre_producto nombre_del_producto nombre_articulo "
        "product_name item_name product_title title titel produktname* artikelname* nome_produto "
        "nome_do_produto 商品名称 产品名称 品名 名称 商品名 warengruppenname",
    ),
    "holiday": (
        "holiday* holidays is_holiday state_holiday public_holiday holiday_flag holiday_name feiertag* "
        "feiertage* ist_feiertag feriado* feriados* é_feriado 节假日 假日 节日 假期 是否节假日 "
        "jour_férié* férié* jours_fériés festivo* día_festivo es_festivo",
        "événement event event_name event_type ereignis evento",
    ),
    "own": (
        "flyer* in_flyer leaflet* handzettel* prospekt* flugblatt* folheto* encarte* tabloide* on_display "
        "in_display featured in_feature 传单 宣传单 海报 陈列 prospectus* dépliant* tract mise_en_avant folleto*",
        "school_holiday* school_holidays* school_vacation* schulferien* ferien* ferientag* férias* férias_escolares "
        "学校假期 寒暑假 寒假 暑假 vacances_scolaires* vacances* vacaciones_escolares* vacaciones*",
        "events is_event event_flag special_event veranstaltung* eventos événements 赛事",
        "temperature* temp temp_avg temp_max temp_min mean_temp temperatur* temperatura* rain* rainfall* "
        "precipitation* regen* niederschlag* chuva* precipitação* snow snowfall schnee sunshine sonnenschein "
        "weather* wetter* clima 气温 温度 天气 降雨量 降水量 température* pluie* précipitations* "
        "météo* neige ensoleillement lluvia* precipitación* nieve",
    ),
    "stock": (
        "stock* inventory* on_hand stock_level stock_on_hand inventory_level bestand* lagerbestand* "
        "warenbestand* endbestand* estoque* estoque_final saldo_estoque 库存 库存量 存货 "
        "stock_final stock_disponible quantité_en_stock inventaire* existencias* inventario* stock_actual",
    ),
    "returns": (
        "returns* returned* retouren* retoure* rücksendungen ruecksendungen returned_units return_quantity "
        "devoluções* devolução* devolvidos 退货 退货量 退货数量 retours* avoirs "
        "devoluciones*",
    ),
    "order": (
        "invoice invoice_no invoice_number invoice_id order_id order_no order_number order bestellnummer* "
        "bestellung bestell_nr bestell_id auftragsnummer* auftrag rechnungsnummer* rechnung rechnungsnr "
        "belegnummer* belegnr beleg bonnummer* bonnr bon kassenbon receipt_id receipt receipt_no "
        "transaction_id transaction_no ticket ticket_id basket_id pedido id_pedido numero_pedido "
        "número_do_pedido nota_fiscal nfe cupom cupom_fiscal num_pedido 订单号 订单编号 订单id 流水号 小票号 "
        "单号 发票号 numéro_commande num_commande n_commande commande* numéro_ticket n_ticket num_ticket "
        "ticket_caisse numéro_facture n_facture facture* factura* num_factura numero_factura n_factura n_pedido",
    ),
    "open": (
        "open is_open store_open geöffnet* geoeffnet* offen aberto loja_aberta 营业 是否营业 ouvert* magasin_ouvert "
        "abierto* "
        "tienda_abierta",
    ),
    "closed": (
        "closed is_closed geschlossen* fechado* loja_fechada 休业 停业 fermé* magasin_ferme cerrado* tienda_cerrada",
    ),
    "unique_id": ("unique_id",),
    "customers": (
        "customers* kunden* kundenzahl* anzahl_kunden customer_count number_of_customers visitors* besucher* "
        "visits sessions* transactions* transaktionen* footfall* foot_traffic traffic* passanten clientes* "
        "visitantes* transações* número_clientes num_clientes 客流 客流量 客户数 顾客数 访客 访客数 交易数 "
        "receipts page_views pageviews clicks clients* nb_clients nombre_clients nombre_de_clients visiteurs* "
        "fréquentation* nb_tickets nombre_tickets afluencia* transacciones* nombre_de_visiteurs",
    ),
    "personal": (
        "customer* customer_id customer_name user_id user email* e_mail phone* telefon telefone address "
        "adresse endereço kundennummer* kundennr* kunden_nr kunden_id kundenname* kunde id_cliente cliente* "
        "nome_cliente cpf cnpj member_id 客户 客户id 客户编号 用户id 用户 会员 会员号 会员卡号 电话 手机 "
        "姓名 地址 ip_address first_name last_name vorname nachname "
        "client* id_client code_client nom_client numéro_client téléphone courriel prénom correo* teléfono "
        "nombre_cliente dirección* dni",
    ),
    "calendar": (
        "year jahr ano 年 年份 hour stunde hora 小时 weekday weekday_name wochentag* dia_da_semana "
        "dia_semana 星期 星期几 day_of_week dayofweek day_name week_number weeknumber week_no kw quarter "
        "quartal trimestre 季度 week_of_year day_of_month day_of_year month_name month_number monatsname "
        "is_weekend weekend wochenende fim_de_semana 周末 time uhrzeit minute 月 日 yearly_week season année heure "
        "jour_semaine jour_de_la_semaine n_semaine numéro_semaine saison dia_de_la_semana fin_de_semana",
    ),
    "row_id": ("id index row_id unnamed unnamed_0 nr lfd_nr lfdnr line_no line_number row_number 序号 uuid",),
    "other": (
        "cost* costs* profit* margin* tax vat freight* freight_value shipping_cost weight* "
        "kosten* gewinn* marge* mwst gewicht* custo* lucro* margem* imposto peso* frete "
        "成本 利润 毛利 税额 重量 latitude longitude postal_code zip plz cep coût* "
        "coûts* marge* bénéfice* tva* poids* frais* costo* coste* beneficio* margen* impuesto* iva* code_postal",
    ),
    "total": (
        "total gesamt summe sum gesamtsumme totals grand_total soma total_geral 合计 总计 总和 all_products "
        "total_général somme sous_total suma subtotal",
    ),
}

# Where a longer header holds words of several roles, the earlier role here is meant: "customer order date" is a date.
_WORD_ORDER: Final[tuple[Role, ...]] = (
    "date",
    "personal",
    "customers",
    "price",
    "stock",
    "returns",
    "promo",
    "holiday",
    "own",
    "description",
    "category",
    "order",
    "revenue",
    "units",
    "product",
    "store",
    "open",
    "closed",
    "calendar",
    "other",
)


@dataclass(frozen=True)
class Match:
    """How a header name was recognised.

    Attributes:
        role: What the name means.
        tier: 0 = the usual name of this role; higher = a lesser one.
        exact: Whether the whole name is known, not just a word in it.
    """

    role: Role
    tier: int
    exact: bool

    @property
    def rank(self) -> tuple[bool, int]:
        """Sorts better matches first within a role; a lesser whole name beats a word within a name."""
        return (not self.exact, self.tier)


def plain(name: str) -> str:
    """Lower case, no accents, words separated by single underscores: ``InvoiceNo`` -> ``invoice_no``."""
    name = unicodedata.normalize("NFKC", name).strip()
    name = re.sub(r"([a-z\d])([A-Z])", r"\1_\2", name)
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    bare = "".join(char for char in decomposed if not unicodedata.combining(char))
    return re.sub(r"[\W_]+", "_", bare).strip("_")


def _compact(name: str) -> str:
    return plain(name).replace("_", "")


def _build() -> tuple[dict[str, Match], dict[str, Match], dict[str, Match]]:
    whole: dict[str, Match] = {}
    words: dict[str, Match] = {}
    chinese: dict[str, Match] = {}
    for role, tiers in _NAMES.items():
        for tier, names in enumerate(tiers):
            for entry in names.split():
                key = _compact(entry.rstrip("*"))
                whole.setdefault(key, Match(role, tier, True))
                if entry.endswith("*"):
                    words.setdefault(key, Match(role, tier, False))
                if len(key) > 1 and not key.isascii() and any(ord(char) > 0x2E80 for char in key):
                    chinese.setdefault(key, Match(role, tier, False))
    return whole, words, chinese


_WHOLE, _WORDS, _CHINESE = _build()


@lru_cache(maxsize=4096)
def match(name: str) -> Match | None:
    """The meaning of a header name, or None."""
    name = re.sub(r" \(\d+\)$", "", name)  # how the second of two equal names is told apart
    compact = _compact(name)
    if compact in _WHOLE:
        return _WHOLE[compact]
    tokens = plain(name).split("_")
    for length in range(len(tokens) - 1, 1, -1):
        for start in range(len(tokens) - length + 1):
            inner = _WHOLE.get("".join(tokens[start : start + length]))
            if inner is not None:
                return Match(inner.role, inner.tier, False)
    found = [_WORDS[token] for token in tokens if token in _WORDS]
    found += [hit for key, hit in _CHINESE.items() if key in compact]
    return min(found, key=lambda hit: (_WORD_ORDER.index(hit.role), hit.tier)) if found else None


def known_role(name: str) -> Role | None:
    """The role of a name that is known as a whole."""
    hit = match(name)
    return hit.role if hit and hit.exact else None


_OWN_KINDS: Final[tuple[OwnKind, ...]] = ("flyer", "school_holiday", "event", "weather")
_ALSO_OWN: Final[dict[str, OwnKind]] = {
    **dict.fromkeys(("feature", "display", "features", "displays"), "flyer"),
    **dict.fromkeys(("event", "eventname", "eventtype", "ereignis", "evento"), "event"),
}
"""Names that stand in for a promotion or a holiday in files without one, and are own columns in files with one."""


def own_kind(name: str) -> OwnKind | None:
    """What a column of the retailer's own is about, by its name; None for a name that says nothing."""
    hit = match(name)
    if hit is not None and hit.role == "own":
        return _OWN_KINDS[hit.tier]
    return _ALSO_OWN.get(_compact(re.sub(r" \(\d+\)$", "", name)))
