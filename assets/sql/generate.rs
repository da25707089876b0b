//! Makes the text-to-SQL data set in `assets/sql`.
//!
//! Every row is a small made-up table, a question about it and the query that
//! answers it, in the layout of the `WikiSQL` example that MLX users know:
//!
//! ```text
//! table: rivers_2
//! columns: depth, name, country
//! Q: What is the depth of the river whose name is Clear Lake?
//! A: SELECT depth FROM rivers_2 WHERE name = 'Clear Lake'
//! ```
//!
//! The rows depend on the seed alone, so the committed files can be remade and
//! compared byte for byte:
//!
//! ```text
//! cargo run --example generate_sql -- assets/sql
//! ```

use std::collections::HashSet;
use std::path::Path;
use std::process::ExitCode;
use std::{env, fs, io};

/// The seed of the committed files.
pub const SEED: u64 = 20_240_613;

/// Rows in `train.jsonl`.
const TRAIN_ROWS: usize = 1000;
/// Rows in `valid.jsonl`, and in `test.jsonl`.
const HELD_OUT_ROWS: usize = 100;
/// Tables of one domain that only `valid.jsonl` asks about; `test.jsonl` has as many.
const HELD_OUT_TABLES: usize = 2;
/// Tables of one domain, held-out ones included.
const TABLES: usize = 10;

/// The contents of the three files.
pub struct Splits {
    /// `train.jsonl`
    pub train: String,
    /// `valid.jsonl`
    pub valid: String,
    /// `test.jsonl`
    pub test: String,
}

/// What the cells of a column hold.
#[derive(Clone, Copy)]
enum Cells {
    /// One of a list of words, separated by commas.
    Words(&'static str),
    /// One word of each of two lists: a name or a title.
    Names(&'static str, &'static str),
    /// A multiple of the last number between the first two.
    Number(Scale, usize, usize, usize),
}

/// How English compares the numbers of a column.
#[derive(Clone, Copy)]
enum Scale {
    /// Largest and smallest.
    Size,
    /// Highest and lowest.
    Level,
    /// Latest and earliest. An average of these is seldom asked for.
    Year,
}

/// A column: its name and its cells.
type Column = (&'static str, Cells);

/// A domain: one thing, many things, the column that names a thing, the other columns.
type Domain = (&'static str, &'static str, Column, &'static str);

use Cells::{Names, Number, Words};
use Degree::{Least, Most, Over, Under};
use Role::{Amount, Any, Category, Numeric};
use Scale::{Level, Size, Year};

const FIRST_NAMES: &str =
    "Alice,Amy,Ann,Ben,Bob,Dan,Dave,Eve,Grace,Ida,Jack,Jane,Kate,Ken,Leo,Mark,Mike,Ray,Sam,Tom";
const ADJECTIVES: &str =
    "Black,Bright,Clear,Cold,Dark,Deep,First,Free,Gray,Hidden,High,Last,Lost,Low,New,Old,Red,Wild";
const PERSON: Cells = Names(
    FIRST_NAMES,
    "Brown,Clark,Cross,Day,Hill,King,Lake,Lane,Mill,Park,Reed,Stone,West",
);
const PLACE: Cells = Names(
    ADJECTIVES,
    "Bay,Field,Gate,Hill,Lake,Land,Mill,Park,Point,Rock,Shore,Side,Town",
);
const TITLE: Cells = Names(
    ADJECTIVES,
    "Bell,Day,Door,Dream,Fire,Home,King,Light,Night,Star,Stone,Storm,Sun,Wind",
);

/// The columns that domains share, by name.
#[rustfmt::skip]
const COLUMNS: &[(&str, Cells)] = &[
    ("author", PERSON), ("city", PLACE), ("director", PERSON), ("head coach", PERSON),
    ("owner", PERSON), ("singer", PERSON),
    ("brand", Words("Acme,Alpha,Apex,Atlas,Beta,Delta,Gamma,Nexus,Nova,Orion,Titan,Vega")),
    ("climate", Words("cool,dry,hot,mild,stormy,warm,wet")),
    ("color", Words("blue,brown,gold,gray,green,orange,red,white,yellow")),
    ("country", Words("Chile,China,Cuba,France,Ghana,India,Iran,Japan,Laos,Mali,Oman,Peru")),
    ("fuel", Words("coal,diesel,gas,hydrogen,solar,steam")),
    ("genre", Words("crime,drama,fantasy,history,horror,rock,soul")),
    ("language", Words("Arabic,Danish,Dutch,French,German,Greek,Latin,Polish,Spanish,Welsh")),
    ("main flavor", Words("cherry,cream,honey,mint,nut,pepper,salt,vanilla")),
    ("material", Words("brick,copper,glass,iron,paper,plastic,steel,stone,wood")),
    ("position", Words("back,center,forward,guard,left,right,wing")),
    ("region", Words("coast,desert,east,island,north,south,west")),
    ("season", Words("autumn,spring,summer,winter")),
    ("shape", Words("cone,flat,oval,ring,round,square,star")),
    ("style", Words("abstract,classic,formal,gothic,modern,plain,rustic")),
    ("subject", Words("art,biology,history,math,music,physics")),
    ("team", Words("Bulls,Hawks,Kings,Lions,Lynx,Rangers,Rockets,Stars,Tigers,Wolves")),
    ("age", Number(Level, 5, 70, 1)), ("area", Number(Size, 10, 900, 10)),
    ("capacity", Number(Size, 20, 990, 10)), ("cook time", Number(Level, 5, 90, 5)),
    ("cost", Number(Level, 10, 500, 5)), ("depth", Number(Size, 2, 300, 1)),
    ("distance", Number(Size, 5, 900, 5)), ("duration", Number(Level, 2, 180, 1)),
    ("floor count", Number(Size, 2, 60, 1)), ("goal count", Number(Size, 1, 50, 1)),
    ("height", Number(Size, 10, 900, 5)), ("length", Number(Size, 5, 900, 5)),
    ("page count", Number(Size, 40, 900, 10)), ("population", Number(Size, 100, 9900, 100)),
    ("price", Number(Level, 2, 99, 1)), ("rating", Number(Level, 1, 20, 1)),
    ("room count", Number(Size, 2, 90, 1)), ("salary", Number(Level, 1000, 9000, 100)),
    ("score", Number(Level, 1, 100, 1)), ("seat count", Number(Size, 2, 400, 2)),
    ("temperature", Number(Level, 1, 99, 1)), ("top speed", Number(Level, 20, 400, 10)),
    ("weight", Number(Size, 2, 900, 1)), ("width", Number(Size, 2, 90, 1)),
    ("year", Number(Year, 1900, 2020, 1)),
];

/// What the tables are about.
#[rustfmt::skip]
const DOMAINS: &[Domain] = &[
    ("actor", "actors", ("name", PERSON), "country,language,city,age,salary,height"),
    ("album", "albums", ("title", TITLE), "singer,genre,language,price,year,rating"),
    ("bike", "bikes", ("name", TITLE), "brand,color,material,weight,price,year"),
    ("bird", "birds", ("name", TITLE), "color,region,country,weight,length,top speed"),
    ("boat", "boats", ("name", TITLE), "owner,material,color,length,seat count,year"),
    ("book", "books", ("title", TITLE), "author,genre,language,page count,price,year"),
    ("bridge", "bridges", ("name", PLACE), "city,material,style,length,width,year"),
    ("cake", "cakes", ("name", TITLE), "main flavor,shape,color,price,weight,cook time"),
    ("car", "cars", ("name", TITLE), "brand,fuel,owner,price,top speed,year"),
    ("castle", "castles", ("name", PLACE), "country,material,owner,room count,height,year"),
    ("city", "cities", ("name", PLACE), "country,climate,language,population,area,temperature"),
    ("doctor", "doctors", ("name", PERSON), "city,language,age,salary,rating"),
    ("dog", "dogs", ("name", PERSON), "owner,color,city,age,weight,height"),
    ("farm", "farms", ("name", PLACE), "owner,region,climate,area,cost,year"),
    ("flower", "flowers", ("name", TITLE), "color,season,region,height,price,width"),
    ("forest", "forests", ("name", PLACE), "country,climate,shape,area,age,temperature"),
    ("game", "games", ("title", TITLE), "brand,genre,language,price,score,year"),
    ("garden", "gardens", ("name", PLACE), "style,owner,season,area,width,rating"),
    ("horse", "horses", ("name", PERSON), "owner,color,country,age,weight,top speed"),
    ("hotel", "hotels", ("name", PLACE), "city,style,owner,room count,price,rating"),
    ("island", "islands", ("name", PLACE), "country,climate,language,area,population,distance"),
    ("lake", "lakes", ("name", PLACE), "country,shape,climate,depth,area,temperature"),
    ("lamp", "lamps", ("name", TITLE), "brand,material,shape,price,height,weight"),
    ("mountain", "mountains", ("name", PLACE), "country,region,shape,height,age,distance"),
    ("movie", "movies", ("title", TITLE), "director,genre,language,duration,rating,year"),
    ("museum", "museums", ("name", PLACE), "city,style,subject,floor count,price,year"),
    ("painting", "paintings", ("title", TITLE), "owner,style,color,price,width,year"),
    ("planet", "planets", ("name", PLACE), "color,climate,shape,weight,distance,temperature"),
    ("player", "players", ("name", PERSON), "team,position,country,goal count,age,salary"),
    ("recipe", "recipes", ("title", TITLE), "author,main flavor,season,cook time,cost,rating"),
    ("river", "rivers", ("name", PLACE), "country,region,climate,length,depth,width"),
    ("robot", "robots", ("name", TITLE), "brand,material,owner,weight,cost,top speed"),
    ("school", "schools", ("name", PLACE), "city,language,subject,capacity,floor count,year"),
    ("ship", "ships", ("name", TITLE), "owner,country,fuel,length,capacity,top speed"),
    ("song", "songs", ("title", TITLE), "singer,genre,language,duration,score,year"),
    ("stadium", "stadiums", ("name", PLACE), "team,city,head coach,capacity,cost,year"),
    ("student", "students", ("name", PERSON), "subject,language,city,age,score,height"),
    ("teacher", "teachers", ("name", PERSON), "subject,city,language,age,salary,rating"),
    ("tower", "towers", ("name", PLACE), "country,material,shape,height,floor count,year"),
    ("train", "trains", ("name", TITLE), "country,fuel,color,seat count,length,top speed"),
    ("tree", "trees", ("name", TITLE), "region,season,shape,height,age,width"),
];

/// Which column of a table a query may use.
#[derive(Clone, Copy)]
enum Role {
    Any,
    /// Words that several rows may share: not the column that names a row.
    Category,
    Numeric,
    /// A number that is worth an average.
    Amount,
}

/// Which comparing word a question uses: an index into [`Scale::words`].
#[derive(Clone, Copy)]
enum Degree {
    Most,
    Least,
    Over,
    Under,
}

/// A kind of query: how many of each twenty rows are of it, the role of the column `<by>`,
/// the degree `<how>`, the templates of the query and of the question.
type Kind = (usize, Role, Degree, &'static str, &'static [&'static str]);

#[rustfmt::skip]
const KINDS: &[Kind] = &[
    (5, Any, Most, "SELECT <pick> FROM <table> WHERE <by> = <literal>", &[
        "What is the <pick> of <the> <one> whose <by> is <value>?",
        "Tell me the <pick> of <the> <one> with the <by> <value>.",
        "For <the> <one> whose <by> is <value>, what is the <pick>?",
        "Show the <pick> of <the> <one> where the <by> is <value>.",
        "Which <pick> does <the> <one> with the <by> <value> have?",
    ]),
    (4, Category, Most, "SELECT COUNT(*) FROM <table> WHERE <by> = <literal>", &[
        "How many <many> have the <by> <value>?",
        "How many <many> are there whose <by> is <value>?",
        "Count the <many> whose <by> is <value>.",
        "What is the number of <many> with the <by> <value>?",
    ]),
    (2, Amount, Most, "SELECT AVG(<by>) FROM <table>", &[
        "What is the average <by> of all <many>?",
        "Tell me the mean <by> of the <many>.",
        "Find the average <by> among the <many>.",
        "On average, what is the <by> of the <many>?",
    ]),
    (2, Numeric, Most, "SELECT MAX(<by>) FROM <table>", EXTREME),
    (2, Numeric, Least, "SELECT MIN(<by>) FROM <table>", EXTREME),
    (2, Numeric, Over, "SELECT <pick> FROM <table> WHERE <by> > <literal>", BOUND),
    (1, Numeric, Under, "SELECT <pick> FROM <table> WHERE <by> < <literal>", BOUND),
    (1, Numeric, Most, "SELECT <pick> FROM <table> ORDER BY <by> DESC LIMIT 1", FIRST),
    (1, Numeric, Least, "SELECT <pick> FROM <table> ORDER BY <by> LIMIT 1", FIRST),
];
const EXTREME: &[&str] = &[
    "What is the <how> <by> of all <many>?",
    "Tell me the <how> <by> of any <one>.",
    "Find the <how> <by> among the <many>.",
];
const BOUND: &[&str] = &[
    "What is the <pick> of each <one> whose <by> is <how> <value>?",
    "List the <pick> of every <one> with <a> <by> <how> <value>.",
    "Show the <pick> of the <many> where the <by> is <how> <value>.",
];
const FIRST: &[&str] = &[
    "What is the <pick> of the <one> with the <how> <by>?",
    "Tell me the <pick> of the <one> that has the <how> <by>.",
    "Which <pick> does the <one> with the <how> <by> have?",
];

impl Scale {
    /// The words for each [`Degree`], separated by commas.
    #[rustfmt::skip]
    fn words(self) -> [&'static str; 4] {
        let (over, under) = ("above,over,greater than", "below,under,less than");
        match self {
            Size => ["largest,greatest,maximum", "smallest,minimum", over, under],
            Level => ["highest,maximum", "lowest,minimum", over, under],
            Year => ["latest", "earliest", "after,later than", "before,earlier than"],
        }
    }
}

/// `SplitMix64`: small, and the same on every machine.
struct Random(u64);

impl Random {
    /// A number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // 31 bits, so that 32-bit machines agree.
        ((z ^ (z >> 31)) >> 33) as usize % bound
    }

    /// One of the words in a list separated by commas.
    fn word<'a>(&mut self, list: &'a str) -> &'a str {
        let at = self.below(list.split(',').count());
        list.split(',').nth(at).unwrap_or_default()
    }

    /// One of the items, or `None` if there are none.
    fn one<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        (!items.is_empty()).then(|| &items[self.below(items.len())])
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    fn cell(&mut self, cells: Cells) -> String {
        match cells {
            Words(list) => self.word(list).to_owned(),
            Names(first, second) => [self.word(first), self.word(second)].join(" "),
            Number(_, low, high, step) => {
                (low + step * self.below((high - low) / step + 1)).to_string()
            }
        }
    }
}

struct Table {
    name: String,
    domain: &'static Domain,
    columns: Vec<Column>,
}

impl Table {
    /// The tables of a domain, in no order, no two with the same list of columns.
    fn all(domain: &'static Domain, random: &mut Random) -> Vec<Self> {
        let (_, many, id, others) = domain;
        let mut tables: Vec<Self> = Vec::new();
        while tables.len() < TABLES {
            let mut columns = vec![*id];
            columns.extend(
                COLUMNS
                    .iter()
                    .filter(|column| others.split(',').any(|name| name == column.0)),
            );
            random.shuffle(&mut columns);
            columns.truncate(3 + random.below(7) / 3);
            let mut table = Self {
                name: (*many).to_owned(),
                domain,
                columns,
            };
            if !tables.is_empty() {
                table.name = format!("{many}_{}", tables.len() + 1);
            }
            let useful = [Category, Numeric].map(|role| !table.fitting(role).is_empty());
            if useful == [true; 2] && tables.iter().all(|other| other.header() != table.header()) {
                tables.push(table);
            }
        }
        random.shuffle(&mut tables);
        tables
    }

    /// The line that lists the columns.
    fn header(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|column| column.0).collect();
        names.join(", ")
    }

    /// Whether a column names the rows.
    fn is_id(&self, column: Column) -> bool {
        column.0 == self.domain.2.0
    }

    /// The columns that may play a role.
    fn fitting(&self, role: Role) -> Vec<Column> {
        let mut columns = self.columns.clone();
        columns.retain(|&column| match (role, column.1) {
            (Any, _) => true,
            (Category, Number(..)) => false,
            (Category, _) => !self.is_id(column),
            (Numeric, cells) => matches!(cells, Number(..)),
            (Amount, cells) => matches!(cells, Number(Size | Level, ..)),
        });
        columns
    }

    /// A question and its query, or `None` if the table has no column for the kind.
    fn ask(&self, kind: &Kind, random: &mut Random) -> Option<(String, String)> {
        let &(_, role, degree, query, questions) = kind;
        let by = *random.one(&self.fitting(role))?;
        let mut picks = self.fitting(Any);
        picks.retain(|column| column.0 != by.0);
        let value = random.cell(by.1);
        let (literal, scale) = match by.1 {
            Number(scale, ..) => (value.clone(), scale),
            Words(_) | Names(..) => (format!("'{value}'"), Level),
        };
        // A name picks one row, any other value may pick several.
        let the = if self.is_id(by) { "the" } else { "each,every" };
        let vowel = by.0.starts_with(['a', 'e', 'i', 'o', 'u']);
        let names = [
            ("<pick>", random.one(&picks)?.0),
            ("<by>", by.0),
            ("<table>", &self.name),
            ("<one>", self.domain.0),
            ("<many>", self.domain.1),
            ("<the>", random.word(the)),
            ("<a>", if vowel { "an" } else { "a" }),
            ("<how>", random.word(scale.words()[degree as usize])),
            ("<value>", &value),
            ("<literal>", &literal),
        ];
        let fill = |template: &str| {
            let mut text = template.to_owned();
            for (name, with) in names {
                text = text.replace(name, with);
            }
            text
        };
        Some((fill(random.one(questions)?), fill(query)))
    }
}

/// Makes one file.
///
/// One row in four is about a table from `known`, the others are about tables from `own`.
/// `seen` holds every question and every query so far: none comes twice, in any file.
fn rows(
    count: usize,
    own: &[Table],
    known: &[Table],
    seen: &mut HashSet<String>,
    random: &mut Random,
) -> String {
    let kinds: Vec<&Kind> = KINDS
        .iter()
        .flat_map(|kind| std::iter::repeat_n(kind, kind.0))
        .collect();
    let mut lines = Vec::new();
    while lines.len() < count {
        // The kinds take turns, and the tables take turns differently in each round.
        let turn = lines.len() % kinds.len();
        let round = lines.len() / kinds.len();
        let from_known = (turn + round).is_multiple_of(4);
        let table = random.one(if from_known { known } else { own });
        let Some((table, (question, query))) =
            table.and_then(|table| Some((table, table.ask(kinds[turn], random)?)))
        else {
            continue;
        };
        if seen.contains(&question) || seen.contains(&query) {
            continue;
        }
        // Nothing in the pools needs escaping in JSON, apart from the ends of the lines.
        lines.push(format!(
            "{{\"prompt\": \"table: {}\\ncolumns: {}\\nQ: {question}\\nA:\", \"completion\": \" {query}\"}}\n",
            table.name,
            table.header(),
        ));
        seen.extend([question, query]);
    }
    random.shuffle(&mut lines);
    lines.concat()
}

/// Makes the three files.
#[must_use]
pub fn splits(seed: u64) -> Splits {
    let mut random = Random(seed);
    let (mut train, mut valid, mut test) = (Vec::new(), Vec::new(), Vec::new());
    for domain in DOMAINS {
        let mut tables = Table::all(domain, &mut random);
        valid.extend(tables.drain(..HELD_OUT_TABLES));
        test.extend(tables.drain(..HELD_OUT_TABLES));
        train.append(&mut tables);
    }
    let asked = &mut HashSet::new();
    Splits {
        train: rows(TRAIN_ROWS, &train, &train, asked, &mut random),
        valid: rows(HELD_OUT_ROWS, &valid, &train, asked, &mut random),
        test: rows(HELD_OUT_ROWS, &test, &train, asked, &mut random),
    }
}

/// Writes the three files into a folder that exists.
#[cfg_attr(test, allow(dead_code))]
fn write(folder: &Path) -> io::Result<()> {
    let Splits { train, valid, test } = splits(SEED);
    fs::write(folder.join("train.jsonl"), train)?;
    fs::write(folder.join("valid.jsonl"), valid)?;
    fs::write(folder.join("test.jsonl"), test)
}

#[cfg_attr(test, allow(dead_code))]
fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let (Some(folder), None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: generate_sql FOLDER");
        return ExitCode::from(2);
    };
    match write(Path::new(&folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot write into {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}
