//! The assignment of fields to columns. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ImportArgs, InvalidImport, OnConflict,
    args::{Assigned, ColumnKind},
};
use crate::files::EncodedColumn;

/// A column of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sql) struct Column {
    pub name: String,
    pub type_name: String,
    pub generated: bool,
    pub kind: ColumnKind,
}

/// Returns the fields of columns that an export's database computed and that the table computes again.
pub(super) fn computed(
    args: &ImportArgs,
    exported: &[EncodedColumn],
    columns: &[Column],
) -> Vec<String> {
    let computed = |field: &&EncodedColumn| {
        let target = args.map.get(&field.name).unwrap_or(&field.name);
        let target = columns.iter().find(|column| column.name == *target);
        field.generated && args.columns.is_none() && target.is_some_and(|c| c.generated)
    };
    let computed = exported.iter().filter(computed);
    computed.map(|field| field.name.clone()).collect()
}

/// Returns the assignment of fields to columns, in the order of the requested columns, or else of the fields.
/// `exported` holds the manifest's encodings of the fields.
pub(super) fn plan(
    args: &ImportArgs,
    fields: &[String],
    exported: &[EncodedColumn],
    columns: &[Column],
) -> Result<Vec<Assigned>, InvalidImport> {
    let fields_shown = || shown(fields.iter());
    if let Some(field) = args.map.keys().find(|field| !fields.contains(field)) {
        return Err(InvalidImport::UnknownField {
            field: field.clone(),
            fields: fields_shown(),
        });
    }
    let by_name: BTreeMap<_, _> = columns.iter().map(|c| (c.name.as_str(), c)).collect();
    let target = |field: &String| args.map.get(field).unwrap_or(field).clone();
    let pairs: Vec<(String, String)> = match &args.columns {
        Some(wanted) => wanted
            .iter()
            .map(|column| {
                let mut from = fields.iter().filter(|field| target(field) == *column);
                let Some(field) = from.next() else {
                    return Err(InvalidImport::NoField {
                        column: column.clone(),
                        fields: fields_shown(),
                    });
                };
                match from.next() {
                    None => Ok((field.clone(), column.clone())),
                    Some(_) => Err(InvalidImport::Twice {
                        column: column.clone(),
                    }),
                }
            })
            .collect::<Result<_, _>>()?,
        None => {
            let known = |field: &&String| {
                args.map.contains_key(*field) || by_name.contains_key(field.as_str())
            };
            let lost: Vec<_> = fields.iter().filter(|field| !known(field)).collect();
            if !lost.is_empty() {
                return Err(InvalidImport::NoPlace {
                    table: args.table.clone(),
                    fields: shown(lost.into_iter()),
                });
            }
            fields.iter().map(|f| (f.clone(), target(f))).collect()
        }
    };
    let mut filled = BTreeSet::new();
    let mut plan = Vec::new();
    for (field, column) in pairs {
        let Some(found) = by_name.get(column.as_str()) else {
            return Err(InvalidImport::NoColumn {
                table: args.table.clone(),
                column,
                columns: shown(columns.iter().map(|c| &c.name)),
            });
        };
        if found.generated {
            return Err(InvalidImport::Generated { column });
        }
        if !filled.insert(column.clone()) {
            return Err(InvalidImport::Twice { column });
        }
        let encoding = exported.iter().find(|exported| exported.name == field);
        let encoding = encoding.map(|exported| exported.encoding);
        if found.kind == ColumnKind::Bytes && encoding.is_none() && args.bytes.is_none() {
            return Err(InvalidImport::Bytes {
                column,
                type_name: found.type_name.clone(),
            });
        }
        plan.push(Assigned {
            field,
            column,
            type_name: found.type_name.clone(),
            kind: found.kind,
            encoding,
        });
    }
    if let OnConflict::Update(key) = &args.on_conflict {
        if key.is_empty() {
            return Err(InvalidImport::NoKey);
        }
        if let Some(column) = key.iter().find(|column| !filled.contains(*column)) {
            return Err(InvalidImport::KeyNotFilled {
                column: column.clone(),
                columns: shown(filled.iter()),
            });
        }
    }
    Ok(plan)
}

fn shown<'a>(names: impl Iterator<Item = &'a String>) -> String {
    const MOST: usize = 20;
    let mut names: Vec<_> = names.map(String::as_str).collect();
    if names.len() > MOST {
        names.truncate(MOST);
        names.push("...");
    }
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::CsvSource;

    fn columns() -> Vec<Column> {
        let of = |name: &str, generated| Column {
            name: name.to_owned(),
            type_name: "text".to_owned(),
            generated,
            kind: ColumnKind::Plain,
        };
        vec![of("id", false), of("email", false), of("total", true)]
    }

    fn of(
        args: impl Fn(ImportArgs) -> ImportArgs,
        fields: &[&str],
    ) -> Result<Vec<String>, InvalidImport> {
        let args = args(ImportArgs::new(CsvSource::new("x"), "t"));
        let fields: Vec<_> = fields.iter().map(|f| (*f).to_owned()).collect();
        let plan = plan(&args, &fields, &[], &columns())?;
        Ok(plan
            .iter()
            .map(|a| format!("{}>{}", a.field, a.column))
            .collect())
    }

    #[test]
    fn fields_go_to_columns_of_their_name_or_where_they_are_told_to() {
        assert_eq!(
            of(|a| a, &["email", "id"]).unwrap(),
            ["email>email", "id>id"]
        );
        let mapped = of(|a| a.map("E-Mail", "email"), &["id", "E-Mail"]).unwrap();
        assert_eq!(mapped, ["id>id", "E-Mail>email"]);
        let chosen = of(|a| a.columns(["id"]), &["x", "id", "y"]).unwrap();
        assert_eq!(chosen, ["id>id"]);
    }

    #[test]
    fn nothing_of_a_file_is_left_out_unless_columns_are_named() {
        let error = of(|a| a, &["id", "phone"]).unwrap_err();
        assert!(matches!(&error, InvalidImport::NoPlace { fields, .. } if fields == "phone"));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        use InvalidImport as E;
        let error =
            |args: fn(ImportArgs) -> ImportArgs, fields: &[&str]| of(args, fields).unwrap_err();
        assert!(matches!(
            error(|a| a.map("x", "id"), &["id"]),
            E::UnknownField { .. }
        ));
        assert!(matches!(
            error(|a| a.map("id", "no"), &["id"]),
            E::NoColumn { .. }
        ));
        assert!(matches!(
            error(|a| a.columns(["email"]), &["id"]),
            E::NoField { .. }
        ));
        assert!(matches!(error(|a| a, &["id", "id"]), E::Twice { .. }));
        assert!(matches!(
            error(|a| a.map("x", "id"), &["id", "x"]),
            E::Twice { .. }
        ));
        assert!(matches!(
            error(|a| a.columns(["id", "id"]), &["id"]),
            E::Twice { .. }
        ));
        assert!(matches!(error(|a| a, &["total"]), E::Generated { .. }));
        let update = |a: ImportArgs| a.on_conflict(OnConflict::Update(vec!["id".to_owned()]));
        assert!(matches!(error(update, &["email"]), E::KeyNotFilled { .. }));
        let no_key = |a: ImportArgs| a.on_conflict(OnConflict::Update(Vec::new()));
        assert!(matches!(error(no_key, &["email"]), E::NoKey));
    }
}
