"""Tongues that made-up runs are written in: their words, what their tools and agents are called, how they refuse.

A detector that was chosen by reasons does not care in which tongue a run is. What it must not do is depend on the words
it was tried on.
"""

from typing import Final

from msgspec import Struct


class Tongue(Struct, frozen=True, kw_only=True):
    """How runs are worded."""

    words: tuple[str, ...]
    small: tuple[str, ...] = ()
    """Words that say nothing, every third of them."""
    gap: str = " "
    """What stands between two words."""
    agents: tuple[str, str, str, str] = ("planner", "worker", "reviewer", "writer")
    tools: tuple[str, str, str, str, str] = ("search", "read_file", "query", "open_page", "run_code")
    """For ordinary work."""
    refused: str = "Error: this cannot be changed"
    missing: str = "No results."
    busy: str = "Error: 503 service unavailable"
    done: str = "ok"


_LETTERS: Final = """
    ba be bi bo bu ca ce co da de di do fa fe fi fo ga ge go ha he hi ho ja jo ka ke ko la le li lo ma me mi mo na ne
    ni no pa pe pi po ra re ri ro sa se si so ta te ti to va ve vi vo wa we wi za ze zo
"""
_SYLLABLES: Final = _LETTERS.split()
_MADE_UP: Final = tuple(
    first + second + third for first in _SYLLABLES[::2] for second in _SYLLABLES[1::3] for third in ("", "n", "ra")
)

_ENGLISH: Final = """
    account agenda amount answer archive autumn balance barrel basket bridge budget butter cabin candle captain carpet
    castle cellar chapter cheese circle climate clinic cloud coast collar copper corner cotton courier cousin credit
    cupboard current curtain customer dealer debate degree depot desert detail dinner doctor dozen drawer driver edge
    editor effort engine evening event factory farmer fashion feature ferry figure finger flower folder forest freight
    friend garage garden gather glacier grain guest hammer harbour harvest heating helmet hollow honey hotel humid
    icon index insurance island jacket journal journey junction kettle kitchen ladder lake lamp landing lantern lawyer
    leather lecture lesson letter library lighthouse limestone linen lobby lorry lumber magnet manager manor margin
    market meadow medicine member merchant meter minister mirror mission model mountain museum narrow nephew network
    notebook novel nurse oak office orchard orchestra outlet oven owner packet paint palace panel paper parcel parent
    passage pattern pavement pencil pepper permit petrol pillow pilot platform pocket poem police polish pond porch
    postcard powder prize profit property pump quarter railway rainfall receipt recipe record region rental repair
    reservoir ribbon river roof route saddle sailor salary sample satellite saucer scaffold school screen season secret
    seller shelf shelter signal silver sketch slope soap socket solar spring station steam stone storage stream studio
    supplier surface surgeon sweater symbol tailor tenant terrace theatre thunder ticket timber tower tractor treaty
    tunnel turbine uncle uniform valley vehicle velvet vessel village vineyard visitor volume voyage wagon warehouse
    weather wedding window winter witness workshop yard
"""
_GERMAN: Final = """
    Abend Abfahrt Absatz Acker Anbau Anfrage Angebot Anlage Ansicht Antrag Apfel Arzt Auftrag Ausgabe Auszug Bahnhof
    Balken Bauer Becken Bericht Besteck Betrag Bezirk Bild Blatt Boden Brief Brunnen Buchung Burg Dach Dampf Datei
    Decke Deich Dorf Düne Ebene Ecke Eimer Einfahrt Eisen Entwurf Erbse Ernte Fabrik Fahrrad Farbe Feder Feier Felsen
    Fenster Ferien Flasche Fluss Frachter Frist Garten Gebiet Gebühr Gehalt Gemüse Gepäck Gericht Gewinn Gipfel Glocke
    Graben Grenze Größe Gurke Hafen Halle Hammer Händler Haushalt Heizung Herbst Himmel Hügel Insel Käse Kammer Kapitel
    Karte Kasse Kessel Kiste Klammer Koffer Konto Korb Kreis Küche Kunde Küste Lager Lampe Landung Leiter Leitung
    Lieferant Löffel Mantel Markt Mauer Meldung Menge Messer Miete Mühle Muster Nachbar Nebel Ofen Ordner Paket Pfad
    Pfeffer Preis Prüfung Quelle Rahmen Rechnung Regal Regen Reise Rinde Ruder Salz Sattel Schachtel Schatten Schiff
    Schlüssel Schrank Schule Segel Seife Siegel Sitzung Sommer Speicher Spiegel Stall Steuer Stiefel Straße Strecke
    Stufe Tafel Teich Teller Termin Tinte Treppe Truhe Turm Ufer Umschlag Urlaub Verein Vertrag Vorrat Waage Wagen
    Wald Wand Wasser Weide Werkstatt Wetter Wiese Winkel Wolke Wurzel Zähler Zaun Zeile Zelt Ziegel Zimmer Zucker
"""
_CHINESE: Final = """
    账户 议程 数量 答案 档案 秋天 余额 木桶 篮子 桥梁 预算 黄油
    船舱 蜡烛 船长 地毯 城堡 地窖 章节 奶酪 圆圈 气候 诊所 云朵
    海岸 衣领 铜矿 角落 棉花 快递 表亲 信用 橱柜 电流 窗帘 客户
    经销商 辩论 学位 仓库 沙漠 细节 晚餐 医生 抽屉 司机 边缘 编辑
    努力 引擎 晚上 事件 工厂 农民 时尚 特征 渡轮 数字 手指 花朵
    文件夹 森林 货运 朋友 车库 花园 冰川 谷物 客人 锤子 港口 收获
    暖气 头盔 蜂蜜 酒店 图标 索引 保险 岛屿 夹克 期刊 旅程 路口
    水壶 厨房 梯子 湖泊 灯具 着陆 灯笼 律师 皮革 讲座 课程 信件
    图书馆 灯塔 石灰 亚麻 大厅 卡车 木材 磁铁 经理 庄园 边距 市场
    草地 药品 成员 商人 仪表 部长 镜子 任务 模型 山脉 博物馆 侄子
    网络 笔记本 小说 护士 橡树 办公室 果园 乐团
"""
_SPANISH: Final = """
    abeja acera actor aduana agua aguja alambre alcalde alfombra almuerzo altura ancla andén anillo arena armario arroz
    asiento aula autor avena aviso azúcar bahía balcón banda barco barrio batalla billete boda bodega bolsa bosque bota
    botella brazo brújula buzón caballo cable cadena caja cajón calle cama camión campana campo canal canción carbón
    carga carpeta carrera carta casco cebolla cena cera cerca cerro cesta chimenea ciervo cinta ciudad clavo cobre
    cocina colina collar columna comedor correo corona cosecha costa cristal cuaderno cubo cuchara cuenta cuerda cueva
    dato deporte desván dibujo diente ducha edificio embudo enlace ensayo entrada equipo escalera escoba espejo esquina
    estación estante etapa fábrica farol feria fiesta firma flecha fondo fuente gafas ganado garaje globo grieta guante
    guía harina hebilla hierro hilo hoja hombro huerta hueso humo iglesia imán informe invierno isla jabón jarra jaula
    jinete juego ladrillo lago lámpara lana lápiz leche lente letra libro limón lluvia lobo madera maleta manga mapa
"""

TONGUES: Final[dict[str, Tongue]] = {
    "made_up": Tongue(words=_MADE_UP),
    "english": Tongue(
        words=tuple(_ENGLISH.split()),
        small=("the", "a", "of", "and", "to", "in", "is", "with", "for", "on", "that", "not", "it", "was"),
        agents=("lead", "researcher", "critic", "author"),
        tools=("find_documents", "fetch_record", "sql", "browse", "python"),
        refused="Operation not permitted: the record is locked",
        missing="0 matches found",
        busy="HTTP 429 Too Many Requests, please retry later",
        done="Done",
    ),
    "german": Tongue(
        words=tuple(_GERMAN.split()),
        small=("der", "die", "das", "und", "ein", "nicht", "ist", "den", "mit", "für", "von", "auf", "wird", "im"),
        agents=("leitung", "technik", "kontrolle", "redaktion"),
        tools=("suche", "datei_lesen", "abfrage", "seite_laden", "skript"),
        refused="Fehler: Der Vorgang wurde abgelehnt",
        missing="Keine Treffer.",
        busy="Fehler: 503, der Dienst ist vorübergehend überlastet",
        done="erledigt",
    ),
    "spanish": Tongue(
        words=tuple(_SPANISH.split()),
        small=("el", "la", "de", "y", "en", "un", "una", "los", "con", "para", "por", "que", "no", "se"),
        agents=("jefa", "obrero", "revisora", "autora"),
        tools=("buscar", "leer", "consulta", "abrir", "ejecutar"),
        refused="Error: operación denegada",
        missing="Sin resultados",
        busy="Error 503: servicio ocupado, inténtelo más tarde",
        done="hecho",
    ),
    "chinese": Tongue(
        words=tuple(_CHINESE.split()),
        gap="",
        agents=("规划", "执行", "审查", "写作"),
        tools=("sousuo", "duqu", "chaxun", "dakai", "yunxing"),
        refused="错误: 该操作被拒绝",
        missing="未找到任何结果",
        busy="错误: 503 服务暂时不可用, 请稍后重试",
        done="完成",
    ),
}
