//! Every type of MariaDB.

use super::*;

fn of(declared: &str, literals: impl IntoIterator<Item = impl Into<String>>) -> Type {
    Type {
        declared: format!("{declared} NULL"),
        literals: literals.into_iter().map(Into::into).collect(),
        compared: "CAST(# AS CHAR)",
    }
}

fn bytes(declared: &str, literals: impl IntoIterator<Item = impl Into<String>>) -> Type {
    Type {
        compared: "HEX(#)",
        ..of(declared, literals)
    }
}

fn floats(declared: &str, literals: impl IntoIterator<Item = impl Into<String>>) -> Type {
    Type {
        compared: "CAST(# + 0e0 AS CHAR)",
        ..of(declared, literals)
    }
}

fn text(text: &&str) -> String {
    quoted(&text.replace('\\', "\\\\"))
}

fn types() -> Vec<Type> {
    let texts = || TEXTS.iter().map(text);
    let short: Vec<_> = TEXTS.iter().filter(|t| t.is_ascii()).map(text).collect();
    let json = JSON.iter().chain(&JSON_TEXTS[..3]).map(text);
    let binary = ["x''", "x'00'", "x'deadbeef'", "'abc'", "x'5c78'", "'\"\n'"];
    let shapes = |shapes: &[&str]| -> Vec<String> {
        let shape = |shape: &&str| format!("ST_GeomFromText('{shape}', 4326)");
        shapes.iter().map(shape).collect()
    };
    vec![
        of("tinyint", ["-128", "127"]),
        of("tinyint(1)", ["0", "1", "5"]),
        of("smallint unsigned", ["65535"]),
        of("mediumint", ["-8388608"]),
        of("int", ["-2147483648", "2147483647"]),
        of("int(5) zerofill", ["42", "0", "4294967295"]),
        of("bigint", ["-9223372036854775808", "9223372036854775807"]),
        of("bigint unsigned", ["18446744073709551615"]),
        of("bigint(20) zerofill", ["18446744073709551615", "1"]),
        of(
            "decimal(65,30)",
            [
                "12345678901234567890123456789012345.123456789012345678901234567890",
                "-0.1",
            ],
        ),
        of("decimal(10,2) zerofill", ["42.5"]),
        floats(
            "float",
            [
                "16777216",
                "8388609",
                "0.1",
                "1e-45",
                "3.4028234e38",
                "-0e0",
                "123456789",
                "1.17549e-38",
                "0.333333333",
            ],
        ),
        floats("float unsigned", ["0.1"]),
        floats("float(7,4)", ["123.4567"]),
        floats(
            "double",
            [
                "0.1",
                "1.7976931348623157e308",
                "-1.7976931348623157e308",
                "5e-324",
                "9007199254740993",
                "0.30000000000000004",
                "-2.2250738585072014e-308",
            ],
        ),
        floats("double(20,3)", ["12345678901234.567"]),
        bytes("bit(1)", ["b'0'", "b'1'"]),
        bytes("bit(9)", ["b'101010101'", "b'110101'"]),
        bytes(
            "bit(64)",
            [
                "b'1111111111111111111111111111111111111111111111111111111111111111'",
                "53",
            ],
        ),
        of("year", ["'0000'", "1901", "2155"]),
        of(
            "date",
            [
                "'0000-00-00'",
                "'2024-00-15'",
                "'2024-02-00'",
                "'9999-12-31'",
            ],
        ),
        of(
            "datetime(6)",
            [
                "'0000-00-00 00:00:00'",
                "'9999-12-31 23:59:59.999999'",
                "'2024-03-31 02:30:00'",
            ],
        ),
        of("datetime", ["'2024-00-00 00:00:00'"]),
        of(
            "timestamp(6)",
            [
                "'0000-00-00 00:00:00'",
                "'1970-01-01 00:00:01'",
                "'2038-01-19 03:14:07.999999'",
                "'2024-10-27 01:30:00'",
            ],
        ),
        of(
            "time(6)",
            ["'-838:59:59.999999'", "'838:59:59'", "'00:00:00.000001'"],
        ),
        bytes("char(5)", ["'ab'", "''", "' a'"]),
        bytes("varchar(40) CHARACTER SET utf8mb4", texts()),
        bytes(
            "varchar(40) CHARACTER SET latin1",
            short.iter().cloned().chain(["'ä'".to_owned()]),
        ),
        bytes("varchar(40) CHARACTER SET utf16", texts()),
        bytes("tinytext", texts()),
        bytes("longtext", texts()),
        bytes("binary(4)", ["x'00'", "x'deadbeef'", "'ab'"]),
        bytes("varbinary(9)", binary),
        bytes("tinyblob", binary),
        bytes("blob", binary),
        bytes("longblob", binary),
        of("enum('a','b,c','','\"')", ["'a'", "'b,c'", "''", "'\"'"]),
        of("enum('1','0','2')", ["'1'", "'0'", "'2'"]),
        of("set('a','b c','1')", ["''", "'a,b c'", "'1'"]),
        bytes("json", json),
        bytes(
            "geometry",
            shapes(&[
                "POINT(1 2)",
                "LINESTRING(0 0,1 1)",
                "GEOMETRYCOLLECTION(POINT(0.1 2))",
            ]),
        ),
        bytes("point", shapes(&["POINT(0.1 -2)"])),
        bytes("polygon", shapes(&["POLYGON((0 0,1 0,1 1,0 0))"])),
        bytes("multipoint", shapes(&["MULTIPOINT(0 0,1 0.1)"])),
        of("uuid", ["'00000000-0000-0000-0000-0000000000ff'"]),
        of("inet4", ["'10.0.0.1'"]),
        of("inet6", ["'::1'", "'fe80::1'"]),
    ]
}

async fn home(test: &str) -> Option<(Source, Dialect)> {
    let source = database::mariadb(test).await?;
    let dialect = Dialect {
        types: types(),
        id: "bigint NOT NULL",
        computed: "bigint AS (id * 2) STORED",
        end: "",
        overriding: "",
        flags: &[],
        urls: None,
    };
    Some((source, dialect))
}

survives!(home);
