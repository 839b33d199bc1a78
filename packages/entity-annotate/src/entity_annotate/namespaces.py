"""Which prefixes of a link (`File:`, `de:`, `wikt:`) make it something else than a link to an article.

A dump's siteinfo names its own namespaces; the names below are for dumps without one, or with a wrong one.
"""

from collections.abc import Iterable
from dataclasses import dataclass

FILE_NAMES = (
    "file image media datei bild fichier archivo imagen immagine ficheiro imagem файл изображение bestand "
    "afbeelding plik grafika fil tiedosto kuva soubor fájl kép fișier imagine dosya resim ファイル "
    "画像 文件 檔案 档案 "
    "图像 圖像 파일 그림 ملف صورة پرونده תמונה קובץ картинка слика датотека चित्र ไฟล์ "
    "tập_tin hình berkas gambar"
)
CATEGORY_NAMES = (
    "category kategorie catégorie categoría categoria категория categorie kategoria kategori kategória "
    "luokka categorie カテゴリ 分类 分類 분류 تصنيف رده קטגוריה категорія категорија श्रेणी หมวดหมู่ thể_loại"
)
OTHER_NAMES = (
    "talk user user_talk wikipedia wikipedia_talk project project_talk file_talk image_talk mediawiki "
    "mediawiki_talk template template_talk help help_talk category_talk portal portal_talk draft draft_talk "
    "book book_talk module module_talk timedtext timedtext_talk special wp wt t mos education_program "
    "gadget topic benutzer benutzer_diskussion diskussion vorlage vorlage_diskussion hilfe spezial "
    "utilisateur modèle aide projet spécial usuario plantilla ayuda anexo especial 利用者 "
    "テンプレート 特別 用户 模板 帮助 "
    "مستخدم قالب بوابة участник шаблон обсуждение"
)
INTERWIKI_NAMES = (
    "wiktionary wikt wikinews wikibooks wikiquote wikisource wikispecies species wikiversity wikivoyage voy "
    "v b d n q s w m c meta commons wikidata mw mediawikiwiki foundation wmf incubator outreach phab "
    "phabricator bugzilla mailarchive imdbname imdbtitle doi pmid hdl rfc isbn google googlemaps tools "
    "toollabs toolforge"
)
LANGUAGES = (
    "aa ab ace ady af ak als alt am ami an ang anp ar arc ary arz as ast atj av avk awa ay az azb ba ban "
    "bar bat-smg bbc bcl be be-tarask be-x-old bg bh bi bjn blk bm bn bo bpy br bs btm bug bxr ca cbk-zam "
    "cdo ce ceb ch cho chr chy ckb co cr crh cs csb cu cv cy da dag de dga din diq dsb dtp dty dv dz ee el "
    "eml en eo es et eu ext fa fat ff fi fiu-vro fj fo fon fr frp frr fur fy ga gag gan gcr gd gl glk gn "
    "gom gor got gpe gsw gu guc gur guw gv ha hak haw he hi hif ho hr hsb ht hu hy hyw hz ia iba id ie ig "
    "igl ii ik ilo inh io is it iu ja jam jbo jv ka kaa kab kbd kbp kcg kg ki kj kk kl km kn ko koi kr krc "
    "ks ksh ku kus kv kw ky la lad lb lbe lez lfn lg li lij lld lmo ln lo lrc lt ltg lv mad mai map-bms mdf "
    "mg mh mhr mi min mk ml mn mni mnw mo mr mrj ms mt mus mwl my myv mzn na nah nan nap nds nds-nl ne new "
    "ng nia nl nn no nov nqo nrm nso nv ny oc olo om or os pa pag pam pap pcd pcm pdc pfl pi pih pl pms pnb "
    "pnt ps pt pwn qu rm rmy rn ro roa-rup roa-tara rsk ru rue rw sa sah sat sc scn sco sd se sg sh shi shn "
    "si simple sk skr sl sm smn sn so sq sr srn ss st stq su sv sw szl szy ta tay tcy tdd te tet tg th ti "
    "tk tl tly tn to tpi tr trv ts tt tum tw ty tyv udm ug uk ur uz ve vec vep vi vls vo wa war wo wuu xal "
    "xh xmf yi yo za zea zgh zh zh-classical zh-cn zh-min-nan zh-tw zh-yue zu"
)


def prefix_key(name: str) -> str:
    """Return the form under which a prefix is looked up: lower case, underscores, no outer spaces."""
    return name.strip().lower().replace(" ", "_")


@dataclass(frozen=True)
class Namespaces:
    """What the prefix of a link means: files, categories and languages vanish, the others are not "
    "articles."""

    file: frozenset[str]
    category: frozenset[str]
    language: frozenset[str]
    other: frozenset[str]

    def including(self, declared: Iterable[tuple[int, str]]) -> "Namespaces":
        """Return these namespaces with those of a dump's siteinfo, (key, name), added."""
        file, category, other = set(self.file), set(self.category), set(self.other)
        for key, name in declared:
            if name:
                kind = {6: file, 14: category}.get(key, other)
                kind.add(prefix_key(name))
        return Namespaces(
            frozenset(file), frozenset(category), self.language, frozenset(other - file - category)
        )


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


DEFAULT_NAMESPACES = Namespaces(
    _names(FILE_NAMES) - {"media"},  # [[Media:x.ogg|listen]] shows its label
    _names(CATEGORY_NAMES),
    _names(LANGUAGES),
    _names(OTHER_NAMES) | _names(INTERWIKI_NAMES) | {"media"},
)
