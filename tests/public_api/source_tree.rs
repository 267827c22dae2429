//! The modules of the crate as their files declare them, and the item that a path means.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use syn::{Attribute, Item, ItemImpl, ItemUse, Meta, UseTree, Visibility};

/// A path in the crate, without `crate`.
pub type ModulePath = Vec<String>;

pub struct Module {
    pub items: Vec<Item>,
    /// The visibility of its declaration.
    pub visibility: Visibility,
}

/// A name that a `use` brings into a module.
pub struct Import {
    pub name: String,
    pub path: Vec<String>,
    pub public: bool,
}

pub struct SourceTree {
    pub modules: BTreeMap<ModulePath, Module>,
}

impl SourceTree {
    pub fn read(lib: &Path) -> Self {
        let mut tree = Self {
            modules: BTreeMap::new(),
        };
        let public: Visibility = syn::parse_quote!(pub);
        tree.file(
            lib,
            lib.parent().expect("the file has a folder"),
            vec![],
            public,
        );
        tree
    }

    /// Reads the file of a module. `folder` has the files of its child modules.
    fn file(&mut self, file: &Path, folder: &Path, path: ModulePath, visibility: Visibility) {
        let text =
            fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let parsed = syn::parse_file(&text).expect("the crate compiles, so its files parse");
        self.module(parsed.items, folder, path, visibility);
    }

    fn module(&mut self, items: Vec<Item>, folder: &Path, path: ModulePath, at: Visibility) {
        let mut kept = Vec::new();
        for item in items {
            let Item::Mod(module) = item else {
                kept.push(item);
                continue;
            };
            if is_for_tests(&module.attrs) {
                continue;
            }
            let name = module.ident.to_string();
            let child: ModulePath = path.iter().cloned().chain([name.clone()]).collect();
            let inside = folder.join(&name);
            match module.content {
                Some((_, items)) => self.module(items, &inside, child, module.vis),
                None => {
                    let candidates: [PathBuf; 2] =
                        [folder.join(format!("{name}.rs")), inside.join("mod.rs")];
                    let file = candidates.iter().find(|file| file.exists());
                    let file = file.unwrap_or_else(|| panic!("no file has module {child:?}"));
                    self.file(file, &inside, child, module.vis);
                }
            }
        }
        let module = Module {
            items: kept,
            visibility: at,
        };
        self.modules.insert(path, module);
    }

    /// The names that the `use` items of a module bring in.
    pub fn imports(&self, module: &[String]) -> Vec<Import> {
        let mut imports = Vec::new();
        for item in &self.modules[module].items {
            if let Item::Use(item) = item
                && !is_for_tests(&item.attrs)
            {
                flatten(item, &item.tree, &mut Vec::new(), &mut imports);
            }
        }
        imports
    }

    /// Returns the module that defines the item of `path` as seen from `module`, and its name there. `None` means an
    /// item of another crate.
    pub fn resolve(&self, module: &[String], path: &[String]) -> Option<(ModulePath, String)> {
        let (first, rest) = path.split_first()?;
        if !rest.is_empty() {
            let start = match first.as_str() {
                "crate" => vec![],
                "self" => module.to_vec(),
                "super" => module[..module.len() - 1].to_vec(),
                name => {
                    let child: ModulePath =
                        module.iter().cloned().chain([name.to_owned()]).collect();
                    match self.modules.contains_key(&child) {
                        true => child,
                        false => {
                            let import = self
                                .imports(module)
                                .into_iter()
                                .find(|i| i.name == name && i.path[0] != name)?;
                            let whole: Vec<String> = import
                                .path
                                .into_iter()
                                .chain(rest.iter().cloned())
                                .collect();
                            return self.resolve(module, &whole);
                        }
                    }
                }
            };
            return self.resolve(&start, rest);
        }
        if self.defined(module, first).is_some() {
            return Some((module.to_vec(), first.clone()));
        }
        let import = self
            .imports(module)
            .into_iter()
            .find(|i| i.name == *first)?;
        (import.path != [first.clone()]).then(|| self.resolve(module, &import.path))?
    }

    /// The item that a module itself defines under this name.
    pub fn defined(&self, module: &[String], name: &str) -> Option<&Item> {
        let module = self.modules.get(module)?;
        module.items.iter().find(|item| {
            let ident = match item {
                Item::Struct(item) => &item.ident,
                Item::Enum(item) => &item.ident,
                Item::Trait(item) => &item.ident,
                Item::Type(item) => &item.ident,
                Item::Const(item) => &item.ident,
                Item::Fn(item) => &item.sig.ident,
                _ => return false,
            };
            ident == name
        })
    }

    /// All `impl` blocks, with the module that has them.
    pub fn impls(&self) -> impl Iterator<Item = (&ModulePath, &ItemImpl)> {
        self.modules.iter().flat_map(|(path, module)| {
            module.items.iter().filter_map(move |item| match item {
                Item::Impl(item) if !is_for_tests(&item.attrs) => Some((path, item)),
                _ => None,
            })
        })
    }
}

fn flatten(item: &ItemUse, tree: &UseTree, path: &mut Vec<String>, imports: &mut Vec<Import>) {
    let mut found = |name: String, last: Option<String>, path: &[String]| {
        imports.push(Import {
            name,
            path: path.iter().cloned().chain(last).collect(),
            public: matches!(item.vis, Visibility::Public(_)),
        });
    };
    match tree {
        UseTree::Path(step) => {
            path.push(step.ident.to_string());
            flatten(item, &step.tree, path, imports);
            path.pop();
        }
        UseTree::Group(group) => {
            for tree in &group.items {
                flatten(item, tree, path, imports);
            }
        }
        UseTree::Name(name) if name.ident == "self" => {
            found(path.last().cloned().unwrap_or_default(), None, path);
        }
        UseTree::Name(name) => found(name.ident.to_string(), Some(name.ident.to_string()), path),
        UseTree::Rename(name) => {
            found(name.rename.to_string(), Some(name.ident.to_string()), path);
        }
        _ => {}
    }
}

/// Tells whether an item exists only in tests.
pub fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let Meta::List(list) = &attribute.meta else {
            return false;
        };
        let condition = list.tokens.to_string();
        list.path.is_ident("cfg")
            && (condition == "test"
                || condition.starts_with("all (test")
                || condition.contains("doctest"))
    })
}
