"""Second opinions: Sigma rules read by pySigma, STIX 2.1 bundles by OASIS's stix2 and the schemas of its validator.

    read.py sigma FOLDER      every .yml in it
    read.py stix FILE...      nothing but what the standard has
    read.py stix-own FILE...  properties of our own too

Asks nobody on the network. Ends with 1 and a line for each fault, also when there is nothing to read."""

import json
import sys
from pathlib import Path

# What they ask the network for, and what is taste: the ids of our rules are their names.
NOT_ASKED = {"attacktag", "d3_fendtag", "identifier_existence"}


def sigma(folder):
    from sigma.collection import SigmaCollection
    from sigma.validation import SigmaValidator
    from sigma.validators.core import validators

    asked = [validator for name, validator in validators.items() if name not in NOT_ASKED]
    files = sorted(Path(folder).glob("*.yml"))
    faults, count = [], 0
    for path in files:
        try:
            rules = SigmaCollection.from_yaml(path.read_text(encoding="utf-8"))
            rules.resolve_rule_references()
            for rule in rules.rules:
                # Conditions are read when somebody asks for them.
                for condition in getattr(getattr(rule, "detection", None), "parsed_condition", []):
                    condition.parsed
            issues = SigmaValidator(asked).validate_rules(iter(rules.rules))
            faults += [f"{path.name}: {issue}" for issue in issues]
            count += len(rules.rules)
        except Exception as error:  # Whatever a reader makes of it is a fault of what it read.
            faults.append(f"{path.name}: {type(error).__name__}: {error}")
    return faults, f"{count} rules in {len(files)} files", count


def stix(files, is_own):
    import stix2
    from stix2validator import ValidationOptions, validate_instance

    faults, count = [], 0
    for name in files:
        try:
            bundle = json.loads(Path(name).read_text(encoding="utf-8"))
            count += len(stix2.parse(bundle, allow_custom=is_own, version="2.1").objects)
            result = validate_instance(bundle, ValidationOptions(version="2.1"))
            faults += [f"{Path(name).name}: {error}" for error in result.errors or []]
        except Exception as error:
            faults.append(f"{Path(name).name}: {type(error).__name__}: {error}")
    return faults, f"{count} objects in {len(files)} bundles", count


def main(what, *of):
    if what == "sigma":
        faults, told, count = sigma(*of)
    else:
        faults, told, count = stix(of, {"stix": False, "stix-own": True}[what])
    print("\n".join([*faults, told]))
    return 1 if faults or not count else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
