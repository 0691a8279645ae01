# Everything a newcomer or CI runs. `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help install install-recognizer install-tools dev dev-clean dev-reset demo test test-recognizer fuzz check format \
  bundle bench faults bench-templates bench-recognizer calibrate mutants \
  docker-up docker-down docker-logs docker-clean \
  db-status db-psql db-seed db-dump db-restore db-doctor db-lint db-stats \
  db-migrate-up db-migrate-down db-migrate-reset db-migrate-version
SHELL := /bin/bash
WITH_NODE := scripts/with-node
INSTALLED := node_modules/.rekko-installed
TYPES := worker-configuration.d.ts
RECOGNIZER_INSTALLED := recognizer/node_modules/.rekko-installed

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  %-18s %s\n", $$1, $$2 }'

$(INSTALLED): package.json package-lock.json
	$(WITH_NODE) npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

$(TYPES): wrangler.toml $(INSTALLED)
	@$(WITH_NODE) npm run --silent types >/dev/null
	@touch $@

# a package of its own, of 300 MB: only what runs it installs it. Its types come from the root
$(RECOGNIZER_INSTALLED): recognizer/package.json recognizer/package-lock.json $(INSTALLED)
	$(WITH_NODE) npm ci --prefix recognizer --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

install: $(INSTALLED) ## Install what the project needs (the other targets do it too)

install-recognizer: $(RECOGNIZER_INSTALLED) ## Install what the recognizer of photographs needs: 300 MB

dev: $(INSTALLED) $(if $(MODELS),$(RECOGNIZER_INSTALLED)) ## Start everything on http://127.0.0.1:8787 and stay (PORT=8788; DB=docker or native; MODELS=models.json for photographs)
	@exec $(WITH_NODE) node scripts/dev.ts start

dev-clean: $(INSTALLED) ## Stop what `make dev` started
	@$(WITH_NODE) node scripts/dev.ts stop

dev-reset: $(INSTALLED) ## Delete the development data, after a confirmation (YES=1 to skip it)
	@$(WITH_NODE) node scripts/dev.ts reset

demo: $(INSTALLED) $(if $(IMAGES),$(RECOGNIZER_INSTALLED)) ## Run the main job for real and print totals (FACES=file.csv for real embeddings; IMAGES=folder MODELS=... for photographs)
	@exec $(WITH_NODE) node scripts/demo.ts

calibrate: $(INSTALLED) ## Say what thresholds your recognizer supports (PAIRS=pairs.csv or FACES=faces.csv; ARGS=--help)
	@$(WITH_NODE) node scripts/calibrate.ts $(if $(PAIRS),--pairs "$$PAIRS") $(if $(FACES),--embeddings "$$FACES") $(ARGS)

test: $(INSTALLED) $(TYPES) ## Run the whole suite (DATABASE_URL=... for a real PostgreSQL)
	@$(WITH_NODE) npm run --silent test

test-recognizer: $(RECOGNIZER_INSTALLED) ## Check and test the recognizer service (REKKO_FACES_DIR=folder for real faces)
	@$(WITH_NODE) npx tsc --noEmit -p recognizer/tsconfig.json
	@$(WITH_NODE) npm test --silent --prefix recognizer

fuzz: FUZZ_REQUESTS ?= 10000
fuzz: $(INSTALLED) $(TYPES) ## Ask every route 10,000 things (FUZZ_REQUESTS=2000; FUZZ_SEED=... asks the same again)
	@FUZZ_REQUESTS=$(FUZZ_REQUESTS) FUZZ_SEED=$(FUZZ_SEED) $(WITH_NODE) npm run --silent test -- --project worker test/worker/fuzz.test.ts

check: $(INSTALLED) $(TYPES) ## Check types, format, lint and migrations
	@$(WITH_NODE) npm run --silent typecheck
	@$(WITH_NODE) npx tsc --noEmit -p recognizer/tsconfig.light.json
	@$(WITH_NODE) npm run --silent lint
	@$(WITH_NODE) npm run --silent lint:migrations

format: $(INSTALLED) ## Format, and mend what the linter can
	@$(WITH_NODE) npm run --silent format

mutants: $(INSTALLED) $(TYPES) ## Break one line at a time and see the tests notice (DATABASE_URL=... for all of them; some minutes)
	@$(WITH_NODE) node scripts/mutants.ts $(MUTANTS)

bundle: $(INSTALLED) ## Build the Worker as for production and print its size
	@$(WITH_NODE) node scripts/bundle.ts

bench: $(INSTALLED) ## Measure the service beside others, on native PostgreSQL (QUICK=1 in four minutes; LONG=1 with a million faces)
	@exec $(WITH_NODE) node scripts/bench/main.ts

faults: $(INSTALLED) ## Break database, network and Worker, and see that nothing is lost, doubled or wrong (QUICK=1 in three minutes; FAULT=crash SEED=1 plays one again)
	@exec $(WITH_NODE) node scripts/faults/main.ts

bench-templates: $(INSTALLED) ## Hold the protected templates to their bars (FACES=file.csv for real embeddings)
	@$(WITH_NODE) node scripts/bench/templates.ts

bench-recognizer: $(RECOGNIZER_INSTALLED) ## Hold an analysis to its bars of CPU and memory (needs REKKO_FACES_DIR; IMAGES=1000 for a short one)
	@$(WITH_NODE) node recognizer/bench/analyze.ts

install-tools: ## Nothing is left to install: the migrations are run by scripts/db.sh
	@echo 'Nothing to install: scripts/db.sh runs the migrations, and fetches what it needs by itself.'

docker-up: ## Start PostgreSQL and the local Neon endpoint in Docker
	@docker compose version >/dev/null 2>&1 || { echo 'This needs Docker with its compose plugin. Without it: make dev (embedded), or scripts/native-postgres start.' >&2; exit 1; }
	docker compose up -d --wait

docker-down: ## Stop them; the data stay
	docker compose down

docker-logs: ## Follow the log of PostgreSQL
	docker compose logs -f postgres

docker-clean: ## Stop them and delete the data (YES=1 to skip the question)
	@[ "$(YES)" = 1 ] || { read -r -p 'Delete the containers and all data in them? [y/N] ' answer && [ "$$answer" = y ]; }
	docker compose down -v

db-status: ## Status of the database
	@scripts/db.sh status

db-psql: ## Open psql on the database
	@scripts/db.sh psql

db-seed: ## Fill the database with test data
	@scripts/db.sh seed

db-dump: ## Make a backup (FILE=backups/name.dump)
	@scripts/db.sh dump $(FILE)

db-restore: ## Restore a backup into an empty database (FILE=backups/name.dump)
	@scripts/db.sh restore $(FILE)

db-doctor: ## Say what is wrong with the database, and how to mend it
	@scripts/db.sh doctor

db-lint: ## Ask the catalogs whether one tenant could see another
	@scripts/db.sh lint

db-stats: ## Sizes, indexes, connections, slow queries
	@scripts/db.sh stats

db-migrate-up: ## Run the pending migrations
	@scripts/db.sh up

db-migrate-down: ## Roll back the last migration
	@scripts/db.sh down

db-migrate-reset: ## Roll back everything and migrate again: all data are lost
	@scripts/db.sh reset

db-migrate-version: ## Show the version of the schema
	@scripts/db.sh version
