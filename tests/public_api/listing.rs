//! One line for each public item, field, variant, method and implementation.

use std::collections::BTreeSet;

use quote::ToTokens;
use syn::{Attribute, Fields, FnArg, ImplItem, Item, Meta, Signature, TraitItem, Type, Visibility};

use crate::source_tree::{ModulePath, SourceTree, is_for_tests};

/// The lines of the whole crate.
pub fn of(tree: &SourceTree) -> Vec<String> {
    let mut lines = Vec::new();
    let mut listed = BTreeSet::new();
    for (public, module, name) in names(tree) {
        let Some(item) = tree.defined(&module, &name) else {
            lines.push(format!("{public}: of another crate"));
            continue;
        };
        if listed.insert((module.clone(), name.clone())) {
            of_item(&public, item, &mut lines);
            of_impls(tree, &public, &module, &name, &mut lines);
        } else {
            lines.push(format!("{public}: a second path"));
        }
    }
    lines
}

/// The names at the root, modules included.
pub fn root_names(tree: &SourceTree) -> BTreeSet<String> {
    let roots = names(tree).into_iter().map(|(public, ..)| {
        let root = public.split("::").next();
        root.unwrap_or_default().to_owned()
    });
    roots.collect()
}

/// Every public path with the module that defines its item and the item's name there.
fn names(tree: &SourceTree) -> Vec<(String, ModulePath, String)> {
    let mut names = Vec::new();
    let mut waiting: Vec<ModulePath> = vec![vec![]];
    while let Some(path) = waiting.pop() {
        let public = |name: &str| match path.is_empty() {
            true => name.to_owned(),
            false => format!("{}::{name}", path.join("::")),
        };
        for (child, module) in &tree.modules {
            if child.len() == path.len() + 1
                && child.starts_with(&path)
                && is_public(&module.visibility)
            {
                waiting.push(child.clone());
            }
        }
        for item in &tree.modules[&path].items {
            if let Some(name) = public_name(item) {
                names.push((public(&name), path.clone(), name));
            }
        }
        for import in tree.imports(&path).into_iter().filter(|i| i.public) {
            let (module, name) = tree
                .resolve(&path, &import.path)
                .unwrap_or((vec!["extern".to_owned()], import.name.clone()));
            names.push((public(&import.name), module, name));
        }
    }
    names
}

fn public_name(item: &Item) -> Option<String> {
    let (visibility, attributes, ident) = match item {
        Item::Struct(item) => (&item.vis, &item.attrs, &item.ident),
        Item::Enum(item) => (&item.vis, &item.attrs, &item.ident),
        Item::Trait(item) => (&item.vis, &item.attrs, &item.ident),
        Item::Type(item) => (&item.vis, &item.attrs, &item.ident),
        Item::Const(item) => (&item.vis, &item.attrs, &item.ident),
        Item::Fn(item) => (&item.vis, &item.attrs, &item.sig.ident),
        _ => return None,
    };
    (is_public(visibility) && !is_hidden(attributes)).then(|| ident.to_string())
}

fn of_item(public: &str, item: &Item, lines: &mut Vec<String>) {
    match item {
        Item::Struct(item) => {
            let generics = text(&item.generics);
            lines.push(format!("struct {public}{generics}{}", traits(&item.attrs)));
            of_fields(public, &item.fields, false, lines);
        }
        Item::Enum(item) => {
            lines.push(format!("enum {public}{}", traits(&item.attrs)));
            for variant in &item.variants {
                let variant_path = format!("{public}::{}", variant.ident);
                lines.push(format!("variant {variant_path}"));
                of_fields(&variant_path, &variant.fields, true, lines);
            }
        }
        Item::Trait(item) => {
            let bounds = text(&item.supertraits);
            lines.push(format!("trait {public}{}: {bounds}", text(&item.generics)));
            for part in &item.items {
                match part {
                    TraitItem::Fn(part) => {
                        let default = part.default.as_ref().map_or("", |_| " { .. }");
                        lines.push(format!("{}{default}", method(public, &part.sig)));
                    }
                    TraitItem::Type(part) => {
                        let bounds = text(&part.bounds);
                        lines.push(format!("type {public}::{}: {bounds}", part.ident));
                    }
                    TraitItem::Const(part) => {
                        lines.push(format!(
                            "const {public}::{}: {}",
                            part.ident,
                            text(&part.ty)
                        ));
                    }
                    _ => {}
                }
            }
        }
        Item::Type(item) => lines.push(format!("type {public} = {}", text(&item.ty))),
        Item::Const(item) => lines.push(format!("const {public}: {}", text(&item.ty))),
        Item::Fn(item) => {
            let path = public.rsplit_once("::").map_or("", |(path, _)| path);
            lines.push(method(path, &item.sig));
        }
        _ => {}
    }
}

fn of_fields(owner: &str, fields: &Fields, all: bool, lines: &mut Vec<String>) {
    for (place, field) in fields.iter().enumerate() {
        if all || is_public(&field.vis) {
            let name = field
                .ident
                .as_ref()
                .map_or(place.to_string(), ToString::to_string);
            lines.push(format!("field {owner}::{name}: {}", text(&field.ty)));
        }
    }
}

fn of_impls(tree: &SourceTree, public: &str, of: &[String], name: &str, lines: &mut Vec<String>) {
    for (module, item) in tree.impls() {
        let Type::Path(this) = &*item.self_ty else {
            continue;
        };
        let path: Vec<String> = this
            .path
            .segments
            .iter()
            .map(|s| s.ident.to_string())
            .collect();
        let is_this = path.last().is_some_and(|last| last == name)
            && tree.resolve(module, &path) == Some((of.to_vec(), name.to_owned()));
        if !is_this {
            continue;
        }
        if let Some((implemented, _)) = &item.trait_ {
            let own = matches!(implemented.get_ident(), Some(ident) if ident.to_string().starts_with("Sealed"));
            if !own {
                lines.push(format!("impl {} for {public}", text(implemented)));
            }
            continue;
        }
        for part in &item.items {
            match part {
                ImplItem::Fn(part)
                    if is_public(&part.vis)
                        && !is_hidden(&part.attrs)
                        && !is_for_tests(&part.attrs) =>
                {
                    lines.push(method(public, &part.sig));
                }
                ImplItem::Const(part) if is_public(&part.vis) => {
                    lines.push(format!(
                        "const {public}::{}: {}",
                        part.ident,
                        text(&part.ty)
                    ));
                }
                _ => {}
            }
        }
    }
}

fn method(owner: &str, signature: &Signature) -> String {
    let mut signature = signature.clone();
    let name = match owner {
        "" => signature.ident.to_string(),
        owner => format!("{owner}::{}", signature.ident),
    };
    for input in &mut signature.inputs {
        if let FnArg::Typed(input) = input {
            input.attrs.clear();
        }
    }
    let kind = signature.asyncness.map_or("fn", |_| "async fn");
    let inputs: Vec<String> = signature.inputs.iter().map(text).collect();
    let generics = text(&signature.generics);
    let bounds = text(&signature.generics.where_clause);
    let bounds = if bounds.is_empty() {
        bounds
    } else {
        format!(" {bounds}")
    };
    let output = text(&signature.output);
    let output = if output.is_empty() {
        output
    } else {
        format!(" {output}")
    };
    format!(
        "{kind} {name}{generics}({}){output}{bounds}",
        inputs.join(", ")
    )
}

/// The derived traits and `#[non_exhaustive]`, which callers depend on.
fn traits(attributes: &[Attribute]) -> String {
    let mut derived: Vec<String> = Vec::new();
    let mut open = "";
    for attribute in attributes {
        match &attribute.meta {
            Meta::List(list) if list.path.is_ident("derive") => {
                let names = tidy(&list.tokens.to_string());
                let names = names.split(',').map(str::trim);
                derived.extend(names.filter(|name| !name.is_empty()).map(ToOwned::to_owned));
            }
            Meta::Path(path) if path.is_ident("non_exhaustive") => open = " (non-exhaustive)",
            _ => {}
        }
    }
    derived.sort();
    match derived.is_empty() {
        true => open.to_owned(),
        false => format!("{open} is {}", derived.join(", ")),
    }
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn is_hidden(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("doc") && text(&attribute.meta).contains("hidden")
    })
}

fn text(tokens: &impl ToTokens) -> String {
    tidy(&tokens.to_token_stream().to_string())
}

/// Removes the spaces that tokens are printed with.
fn tidy(tokens: &str) -> String {
    const SPACED: [(&str, &str); 14] = [
        (" :: ", "::"),
        (":: ", "::"),
        (" <", "<"),
        ("< ", "<"),
        (" >", ">"),
        ("& ", "&"),
        (" ,", ","),
        (" :", ":"),
        ("( ", "("),
        (" )", ")"),
        (" (", "("),
        ("[ ", "["),
        (" ]", "]"),
        (" ;", ";"),
    ];
    SPACED
        .iter()
        .fold(tokens.to_owned(), |text, (from, to)| text.replace(from, to))
        .replace("- >", "->")
        .replace("->", "-> ")
        .replace("->  ", "-> ")
}
