# Everything a newcomer or CI runs. `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help install dev dev-clean dev-reset demo test check types format bundle
SHELL := /bin/bash
WITH_NODE := scripts/with-node
INSTALLED := node_modules/.rekko-installed
TYPES := worker-configuration.d.ts

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  %-12s %s\n", $$1, $$2 }'

$(INSTALLED): package.json package-lock.json
	$(WITH_NODE) npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

$(TYPES): wrangler.toml $(INSTALLED)
	@$(WITH_NODE) npm run --silent types >/dev/null
	@touch $@

install: $(INSTALLED) ## Install what the project needs (the other targets do it too)

dev: $(INSTALLED) ## Start everything on http://127.0.0.1:8787 and stay (PORT=8788 for another port)
	@exec $(WITH_NODE) node scripts/dev.ts start

dev-clean: $(INSTALLED) ## Stop what `make dev` started
	@$(WITH_NODE) node scripts/dev.ts stop

dev-reset: $(INSTALLED) ## Delete the development data, after a confirmation (YES=1 to skip it)
	@$(WITH_NODE) node scripts/dev.ts reset

demo: $(INSTALLED) ## Run the main job for real and print totals (FACES=file.csv for real embeddings)
	@exec $(WITH_NODE) node scripts/demo.ts

test: $(INSTALLED) $(TYPES) ## Run the whole suite (DATABASE_URL=... for a real PostgreSQL)
	@$(WITH_NODE) npm run --silent test

check: $(INSTALLED) $(TYPES) ## Check types, format and lint
	@$(WITH_NODE) npm run --silent typecheck
	@$(WITH_NODE) npm run --silent lint

format: $(INSTALLED) ## Format, and mend what the linter can
	@$(WITH_NODE) npm run --silent format

bundle: $(INSTALLED) ## Build the Worker as for production and print its size
	@$(WITH_NODE) node scripts/bundle.ts
