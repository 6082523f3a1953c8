"""From a recipe's objectives to one module: what each reads of both models, how it is weighed, and their sum."""
