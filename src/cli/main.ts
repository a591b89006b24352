#!/usr/bin/env node
/** @file The `baleen` command. */
