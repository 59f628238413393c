from airworthy.cli import main

main()
